# What the jobs and the test runner share: packages, the environment of MPI, the build. Sourced, by bash.
# shellcheck shell=bash
set -euo pipefail

# A closed standard input would hand its number to the next file that is opened, and mpirun reads it.
exec </dev/null
# Numbers with points, and messages that scripts can read.
export LC_ALL=C
# dpkg looks for ldconfig and start-stop-daemon, which a plain user's path lacks.
export PATH=$PATH:/usr/sbin:/sbin

FAVOR_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck disable=SC2034  # these lists are for those who source this file
{
  BUILD_PACKAGES=(
    gcc libc6-dev make cmake pkg-config openmpi-bin libopenmpi-dev libopenblas-pthread-dev liblapacke-dev
    libhdf5-openmpi-dev libcmocka-dev libhts-dev libjansson-dev libinih-dev librandom123-dev libxxhash-dev
  )
  TEST_PACKAGES=(hdf5-tools gnuplot-nox)
  FUZZ_PACKAGES=(clang libclang-rt-14-dev libomp-dev)
  SLOW_TEST_PACKAGES=(slurm-wlm munge iproute2 libsimgrid-dev "${FUZZ_PACKAGES[@]}")
}

say() { printf '%s\n' "$*" >&2; }
die() { # CODE TEXT...
  local code=$1
  shift
  say "$(basename "$0"): error: $*"
  exit "$code"
}

# need_packages NAME...: installs those that are missing; without the right to do so, prints the line that does it.
need_packages() {
  local package missing=() root=()
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: taking for granted what Debian calls $*"
    return 0
  fi
  for package; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null ||
      die 70 "packages are missing; as root, run: apt-get install --no-install-recommends ${missing[*]}"
    root=(sudo)
  fi
  say "installing ${missing[*]}"
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update >&2
  "${apt[@]}" install --no-install-recommends "${missing[@]}" >&2
}

# fetch_package NAME DIRECTORY: unpacks a Debian package there without installing it, which needs no root, and gives its
# /usr/share/doc also where the system drops that on installing.
fetch_package() {
  command -v apt-get >/dev/null || die 70 "the Debian package $1 is needed, and there is no apt-get here"
  (
    cd "$2"
    if ! apt-get -q download "$1" >&2; then
      [[ $(id -u) -eq 0 ]] || die 70 "apt does not know $1; as root, run: apt-get update"
      apt-get -q -o DPkg::Lock::Timeout=300 update >&2
      apt-get -q download "$1" >&2
    fi
    dpkg-deb -x "$1"_*.deb .
    rm "$1"_*.deb
  )
}

# mpi_environment: for every launch of favor, on one machine or many. A rank's threads take the cores it may run on: T
# by mpirun --map-by slot:PE=T or srun --cpus-per-task=T; all by mpirun --bind-to none, and the ranks share them out.
mpi_environment() {
  # Open MPI 4 leaves /dev/shm/sem.OMPIO_* behind when killed, and the next open of that file name hangs.
  export OMPI_MCA_sharedfp=^sm
  # MPI-IO by ROMIO: OMPIO, which Open MPI prefers, calls writes to a full disk a success.
  export OMPI_MCA_io=${OMPI_MCA_io:-^ompio}
  # Of a host that is lost without a word mpirun hears from TCP alone: here within 2 minutes instead of 8. It has to be
  # before the other ranks notice (--stall-timeout): with something left to say to that host, it waits as long as TCP
  # resends it.
  export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-60}
  export OMPI_MCA_oob_tcp_keepalive_intvl=${OMPI_MCA_oob_tcp_keepalive_intvl:-10}
  export OMPI_MCA_oob_tcp_keepalive_probes=${OMPI_MCA_oob_tcp_keepalive_probes:-6}
  # Threads are the program's; BLAS gets tiles too small to share.
  export OPENBLAS_NUM_THREADS=1
  if [[ $(id -u) -eq 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

# mpi_environment_shared: besides, for a machine that has fewer cores than ranks, or other work to do.
mpi_environment_shared() {
  mpi_environment
  export OMPI_MCA_rmaps_base_oversubscribe=1
  # Bound to cores, two runs would take the same ones.
  export OMPI_MCA_hwloc_base_binding_policy=none
  export OMPI_MCA_mpi_yield_when_idle=1
  # Threads too: a thread that spins at a barrier keeps the core from the one that it waits for.
  export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
  # Messages go by shared memory and TCP. Left to choose, Open MPI first has PSM2 and others look for the devices of fast
  # networks, which takes half of a launch.
  export OMPI_MCA_pml=${OMPI_MCA_pml:-ob1}
  # hwloc asks ten X servers on localhost for graphics cards whenever a rank starts, which takes seconds in a chroot or
  # container that has no /etc/hosts.
  export HWLOC_COMPONENTS=-gl
}

# build_favor PRESET [TARGET]: build/PRESET/favor, or all that there is to build.
build_favor() {
  local target=()
  [[ $# -lt 2 ]] || target=(--target "$2")
  (
    cd "$FAVOR_ROOT"
    cmake --preset "$1" >&2
    cmake --build --preset "$1" --parallel "$(nproc)" "${target[@]}" >&2
  )
}

# find_favor: the path of the program: $FAVOR, the release build, or the one in the path.
find_favor() {
  local program
  for program in "${FAVOR:-}" "$FAVOR_ROOT/build/release/favor" "$(command -v favor || true)"; do
    if [[ -n $program && -x $program ]]; then
      printf '%s\n' "$program"
      return 0
    fi
  done
  die 70 "the program is not built; run: cmake --preset release && cmake --build --preset release (in $FAVOR_ROOT)"
}

# What jobs under Slurm share: a job calls job_begin, and then launch or attend_or_requeue.

# job_begin: the environment of a job; its log begins with how the run is made.
job_begin() {
  [[ -n ${SLURM_JOB_ID:-} ]] || die 64 'this is a job for Slurm; submit it by sbatch, as its first lines say'
  mpi_environment
  FAVOR=$(find_favor)
  FAVOR_LAUNCHER=${FAVOR_LAUNCHER:-srun}
  case $FAVOR_LAUNCHER in
    srun)
      export SLURM_MPI_TYPE=${SLURM_MPI_TYPE:-pmix}
      # Slurm 22.05 by itself takes one kind of fence for data and another for barriers, and now and then a rank is out of
      # MPI_Init before another is through its first fence, which then crashes (so in open-mpi/ompi issue 12495): 3 of 72
      # starts on three busy nodes. With one kind none of 144 did.
      export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-tree}
      ;;
    mpirun) ;;
    *) die 64 "FAVOR_LAUNCHER is '$FAVOR_LAUNCHER'; it must be srun or mpirun" ;;
  esac
  # The cores of a rank. srun would give it one.
  FAVOR_CORES=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / ${SLURM_NTASKS_PER_NODE:-1}))}
  FAVOR_CORES=$((FAVOR_CORES > 0 ? FAVOR_CORES : 1))
  export FAVOR FAVOR_LAUNCHER FAVOR_CORES
  say "job $SLURM_JOB_ID ($SLURM_JOB_NAME), start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"
  env | grep -E '^(FAVOR|HWLOC|OMP|OMPI_MCA|OPENBLAS|SLURM_MPI|SLURM_PMIX)_' | sort >&2
}

# launch WORD...: favor on all ranks of the job, in place of this shell; SIGUSR1 to it reaches all ranks.
launch() {
  local command
  if [[ $FAVOR_LAUNCHER == srun ]]; then
    # Where ranks left because another hangs (--stall-timeout), srun would wait for that one to the end of the job's
    # time.
    command=(srun --wait=10 --cpus-per-task="$FAVOR_CORES")
  else
    # The ranks of a node share its cores out.
    command=(mpirun -n "$SLURM_NTASKS" --bind-to none)
  fi
  command+=("$FAVOR" "$@")
  say "command ${command[*]}"
  exec "${command[@]}"
}

# attend_or_requeue IN OUT WORD...: `favor attend` that goes on where a checkpoint is. SIGUSR1 to the script is handed
# on; where the run then stopped with a checkpoint (exit code 75), the job returns to the queue. Stopped by another signal
# it does not: a job that is preempted or lost a node is requeued by Slurm itself, a cancelled one is not.
attend_or_requeue() {
  local input=$1 output=$2 process code=0 is_told=false was_told=false
  shift 2
  launch attend "$input" -o "$output" --checkpoint-every 60 --resume "$@" &
  process=$!
  trap 'is_told=true was_told=true; kill -USR1 "$process"' USR1
  wait "$process" || code=$?
  # The signal ended the wait, not the run.
  while $is_told; do
    is_told=false code=0
    wait "$process" || code=$?
  done
  [[ $code -eq 75 ]] && $was_told || exit "$code"
  local job=$SLURM_JOB_ID
  # One task of an array has the number of the whole array.
  [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  say "job $job returns to the queue"
  scontrol requeue "$job"
  exit "$code"
}
