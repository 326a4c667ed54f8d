# What the tests under Slurm share: a Slurm of their own, jobs in it, and inputs for them. Sourced by bash, in whose
# directory, $scratch, all files are.
# shellcheck shell=bash
# shellcheck source=jobs/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../jobs/common.sh"
# shellcheck disable=SC2034  # for those who source this file
tests=$FAVOR_ROOT/tests jobs=$FAVOR_ROOT/jobs

# need_slurm: exits 77, skipped, where Slurm cannot be run (tests/run --all installs it).
need_slurm() {
  local tool
  for tool in slurmctld slurmd sbatch munged; do
    command -v "$tool" >/dev/null || { say "$tool is not installed"; exit 77; }
  done
  mountpoint -q /sys/fs/cgroup || { say 'slurmd wants a mounted /sys/fs/cgroup'; exit 77; }
  [[ $(id -u) -eq 0 ]] || { say 'only root can run a Slurm'; exit 77; }
}

# slurm_up NODES [ON_HOST]: a Slurm in $scratch, as mini_slurm does; its jobs are to run what $FAVOR names.
slurm_up() {
  # shellcheck disable=SC2154  # of whoever sources this
  export SLURM_CONF=$scratch/slurm.conf
  "$tests/slurm/mini_slurm" up "$scratch" "$@"
}

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
  await 90 "job $1" has_ended "${job[$1]}"
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

# make_long: long.h5, which takes its time, in blocks: ten with the words of `long`, each with a checkpoint and two
# agreements; and whole.h5, what an undisturbed run on one rank makes of it.
long=(--causal --features 64 --kernel reference --block-tokens 3072 --checkpoint-every 0.001)
make_long() {
  mpirun -n 1 "$FAVOR" make long.h5 --shape 1,4,30000,16 --kv-heads 2 --type float16 --quiet
  mpirun -n 1 "$FAVOR" attend long.h5 -o whole.h5 "${long[@]}" --checkpoint-every off --quiet
}

# settles CHECKPOINT: a run has come to where it waits (FAVOR_FAULT) when it makes no more checkpoints.
settles() {
  await 30 "$1" test -e "$1"
  await 30 "$1 to be the last" is_settled "$1"
}
is_settled() {
  local before
  before=$(stat -c '%i %y' "$1")
  sleep 0.5
  [[ $(stat -c '%i %y' "$1") == "$before" ]]
}

# went_on NAME OUT: the job's last run did not begin at the beginning, and came to the right end.
went_on() {
  expect "$1" COMPLETED 0
  [[ $(sed -n 's/.*"resumed_at": \([0-9]*\).*/\1/p' "$1.log" | tail -n 1) -gt 0 ]] || fail "$1 did not go on:" "$1"
  same_out whole.h5 "$2"
  [[ ! -e $2.favor-checkpoint && ! -e $2.favor-part ]] || fail "$1 left $(ls)"
}
