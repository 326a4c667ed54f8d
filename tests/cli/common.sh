# What the tests of the program share. Sourced by bash, with the path of the program as first argument.
# shellcheck shell=bash
# shellcheck source=jobs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../jobs/common.sh"
mpi_environment_shared
export OMP_NUM_THREADS=1
# Where a program fails, mpirun waits a while before it ends.
export OMPI_MCA_odls_base_sigkill_timeout=0

# shellcheck disable=SC2034  # for those who source this file
TEST_DATA=$(cd "$(dirname "${BASH_SOURCE[0]}")/../data" && pwd)
favor=$(realpath "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
mkdir out # for outputs of runs that must leave none

# run RANKS WORD...: the program; without mpirun where RANKS is 0.
run() {
  local launcher=()
  [[ $1 -eq 0 ]] || launcher=(mpirun -n "$1")
  shift
  timeout -k 5 60 "${launcher[@]}" "$favor" "$@"
}

# refuse CODE TEXT RANKS WORD...: the run ends with this exit code and one line `favor: error:` that holds TEXT, prints
# nothing on stdout, and leaves nothing in out/.
refuse() {
  local expected=$1 text=$2 code=0 errors
  shift 2
  run "$@" >stdout 2>stderr || code=$?
  errors=$(grep -c '^favor: error: ' stderr || true)
  if [[ $code -ne $expected || $errors -ne 1 || -s stdout ]] ||
    ! grep '^favor: error: ' stderr | grep -qF -- "$text"; then
    say "favor ${*:2} on $1 ranks: exit $code (expected $expected), $errors error lines (expected 1 with '$text'):"
    cat stdout stderr >&2
    die 1 'not refused as it should be'
  fi
  [[ -z $(ls -A out) ]] || die 1 "favor ${*:2} on $1 ranks left $(ls -A out)"
}

# accept RANKS WORD...: the run succeeds; its output is in the files stdout and stderr.
accept() {
  local code=0
  run "$@" >stdout 2>stderr || code=$?
  [[ $code -eq 0 ]] && return 0
  say "favor ${*:2} on $1 ranks: exit $code"
  cat stdout stderr >&2
  die 1 'a run failed'
}

# same FILE FILE: the same bytes.
same() { cmp "$1" "$2" || die 1 "$1 and $2 differ"; }

# says FILE TEXT...: the file holds each of the texts.
says() {
  local file=$1 text
  shift
  for text; do
    grep -qF -- "$text" "$file" || die 1 "$file does not say '$text': $(head -c 2000 "$file")"
  done
}

# offset_of FILE DATASET: where a contiguous dataset's bytes begin.
offset_of() { h5dump -p -H -d "$2" "$1" | awk '$1 == "OFFSET" { print $2 }'; }

# patch FILE DATASET BYTE ESCAPES: overwrites bytes of a contiguous dataset from this byte on.
patch() {
  # shellcheck disable=SC2059  # the escapes are the data
  printf "$4" | dd of="$1" bs=1 seek=$(($(offset_of "$1" "$2") + $3)) conv=notrunc status=none
}
