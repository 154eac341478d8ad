# Sourced by the scripts of the tests' own cluster: names, versions, places.
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

kubernetes=1.37.2
containerd=2.4.2

cache="${XDG_CACHE_HOME:-$HOME/.cache}/trestle-tests"
kube="$cache/kubernetes-v$kubernetes"
runtime="$cache/containerd-v$containerd"
images="$cache/images"
# All that a running cluster writes; `down` removes it. Another name makes a second cluster beside the first.
state="${TRESTLE_CLUSTER:-$cache/cluster}"
plugins="$("$here/../setup" --plugins)"

nodes=(node1 node2)
address() { case $1 in control) echo 10.99.0.1 ;; *) echo "10.99.0.$((${1#node} + 10))" ;; esac; }
pod_range() { echo "10.244.${1#node}.0/24"; }
# Of every node in each hierarchy of cgroup v1, or below the one root of v2; not the same in two clusters.
cgroup() { echo "trestle-$(cksum <<<"$state" | cut -d' ' -f1)-$1"; }

die() {
    echo "e2e/cluster: $*" >&2
    exit 1
}

# pid 1 of the namespaces of `control` or a node, as this machine counts; fails if it does not run.
pid() { cat "$state/$1/pid" 2>/dev/null && kill -0 "$(cat "$state/$1/pid")" 2>/dev/null; }

# until_true SECONDS COMMAND...
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
