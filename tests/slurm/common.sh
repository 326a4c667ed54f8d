# What the tests under Slurm share: a Slurm of three nodes, and jobs in it. Sourced by bash, with the path of the program
# as first argument. Exits 77, skipped, where Slurm cannot be run (tests/run --all installs it).
# shellcheck shell=bash
# shellcheck source=jobs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../jobs/common.sh"
# shellcheck disable=SC2034  # for those who source this file
tests=$FAVOR_ROOT/tests jobs=$FAVOR_ROOT/jobs

for tool in slurmctld slurmd sbatch munged; do
  command -v "$tool" >/dev/null || { say "$tool is not installed"; exit 77; }
done
mountpoint -q /sys/fs/cgroup || { say 'slurmd wants a mounted /sys/fs/cgroup'; exit 77; }
[[ $(id -u) -eq 0 ]] || { say 'only root can run a Slurm'; exit 77; }

FAVOR=$(realpath "$1")
export FAVOR
mpi_environment_shared

# A short path: munge's socket lies in it.
scratch=$(mktemp -d /tmp/favor-slurm.XXXXXX)
export SLURM_CONF=$scratch/slurm.conf
cd "$scratch"

# submit NAME OPTION... SCRIPT WORD...: a job with the log NAME.log; its number is in ${job[NAME]}.
declare -A job
submit() {
  rm -f "$1.log"
  job[$1]=$(sbatch --parsable -o "$scratch/$1.log" "${@:2}")
}

# fail TEXT [NAME]: what was wrong, with the job's log.
fail() {
  say "$1"
  [[ -z ${2:-} || ! -e $2.log ]] || cat "$2.log" >&2
  die 1 'a job did not do what it should'
}

# await SECONDS TEXT COMMAND...: until the command succeeds.
await() {
  local deadline=$((SECONDS + $1))
  until "${@:3}" >/dev/null 2>&1; do
    [[ $SECONDS -lt $deadline ]] || fail "waited $1 s for $2: $(squeue -a)"
    sleep 0.1
  done
}

has_ended() { [[ -z $(squeue -h -j "$1" -t PENDING,RUNNING,COMPLETING,CONFIGURING -o %i) ]]; }

# how_ended JOB: state and exit code of a job, or of a task of an array, as COMPLETED 0.
how_ended() { scontrol -o show job "$1" | sed -n 's/.*JobState=\([A-Z_]*\) .* ExitCode=\([0-9]*\):.*/\1 \2/p'; }

# expect NAME STATE CODE: the job ends so.
expect() {
  await 60 "job $1" has_ended "${job[$1]}"
  local ended
  ended=$(how_ended "${job[$1]}")
  [[ $ended == "$2 $3" ]] || fail "job $1 ended with $ended, not $2 $3; its log:" "$1"
}

# says NAME TEXT...: the job's log holds each of the texts.
says() {
  local text
  for text in "${@:2}"; do
    grep -qF -- "$text" "$1.log" || fail "the log of job $1 does not say '$text':" "$1"
  done
}

same_out() { "$tests/support/same_out" "$@"; }
