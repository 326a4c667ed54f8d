# Several hosts on this machine, for tests that source this: hosts n1, n2, ... at 10.77.0.1, .2, ..., each with a
# network, a name and processes of its own, joined by a bridge. All of it is within namespaces that enter_rack makes for
# the script: whatever ends that, the kernel ends every process and removes every network and mount, and no name in the
# machine around it is taken. Sourced by bash, with the path of the program as first argument.
# shellcheck shell=bash
# shellcheck source=tests/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../slurm/common.sh"
FAVOR=$(realpath "$1")
export FAVOR

skip() {
  say "$1"
  exit 77
}

# enter_rack WORD...: runs the script again, with these words, as the first process of its own namespaces, in a
# directory of its own; exit code 77 where that is not allowed.
enter_rack() {
  local namespaces=(unshare --net --uts --mount --pid --fork --kill-child --mount-proc --)
  local here
  here=$(readlink /proc/self/ns/net)
  if [[ $$ -ne 1 || ${FAVOR_RACK:-$here} == "$here" ]]; then
    command -v ip >/dev/null || skip 'ip (iproute2) is not installed'
    "${namespaces[@]}" ip link add rack type bridge 2>/dev/null || skip 'no right to make namespaces and networks'
    FAVOR_RACK=$here exec "${namespaces[@]}" "$0" "$@"
  fi
  # The first process of namespaces is deaf to signals that it does not trap.
  trap 'exit 1' TERM INT
  # A short path: munge's socket may lie in it.
  scratch=$(mktemp -d /tmp/favor-hosts.XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  cd "$scratch"
  mpi_environment_shared
  mkdir tmp
  export OMP_NUM_THREADS=1 TMPDIR=$scratch/tmp FAVOR_HOSTS=$scratch
}

# hosts_up N: the hosts; host_process[I] is the first process of host I, whose end is the end of the host.
declare -a host_process
hosts_up() {
  local i
  ip link add rack type bridge
  ip link set rack up
  ip addr add 10.77.0.254/24 dev rack
  ip link set lo up
  for i in $(seq "$1"); do echo "10.77.0.$i n$i"; done >hosts
  echo "10.77.0.254 $(hostname)" >>hosts
  echo '127.0.0.1 localhost' >>hosts
  mount --bind hosts /etc/hosts
  mount -t tmpfs tmpfs /dev/shm
  for i in $(seq "$1"); do host_up "$i"; done
}

host_up() { # I
  local parent
  rm -f "n$1.up"
  # The shell waits for orphans, as the first process of a host has to.
  unshare --net --uts --mount --pid --fork --kill-child --mount-proc -- bash -c "
    hostname n$1; mount -t tmpfs tmpfs /dev/shm; ip link set lo up; echo >n$1.up; sleep infinity & wait" 2>"n$1.log" &
  parent=$!
  until [[ -s n$1.up ]]; do
    kill -0 $parent 2>/dev/null || die 70 "host n$1 did not come up: $(<"n$1.log")"
    sleep 0.02
  done
  host_process[$1]=$(pgrep -P $parent)
  echo "${host_process[$1]}" >"n$1.pid"
  ip link add "port$1" type veth peer name eth0 netns "${host_process[$1]}"
  ip link set "port$1" master rack up
  nsenter -t "${host_process[$1]}" --net ip addr add "10.77.0.$1/24" dev eth0
  nsenter -t "${host_process[$1]}" --net ip link set eth0 up
}

# host_down I: as when its power fails: not a word to the others, and every process gone.
host_down() {
  ip link set "port$1" down
  kill -9 "${host_process[$1]}"
}
