# Sourced by cases.sh inside the test machine: nodes, pods, calls of a plugin, and what a case may claim.
#
# The node is the machine itself with eth0 as its uplink; eth1, on the same wire, is in the namespace `lan`. A case makes the bridge
# anew. Claims do not end a case: all that is wrong is told at once.

plugins=/test/trestle
passed=0
failed=0
faults=

fault() { faults="$faults
       $*"; }

# same WHAT GOT WANTED
same() { [ "$2" = "$3" ] || fault "$1: got '$2', wanted '$3'"; }

# node FILTERING VID...: br-lan with the uplink, which carries these VIDs tagged and VID 1 untagged.
node() {
    ip link add br-lan type bridge vlan_filtering "$1"
    shift
    ip link set br-lan up
    ip link set eth0 master br-lan up
    for vid; do bridge vlan add dev eth0 vid "$vid"; done
    # Only the bridge device's and the uplink's own: these must stay as they are.
    before=$(untouched)
}

untouched() {
    bridge vlan show dev eth0 2>/dev/null
    bridge vlan show dev br-lan 2>/dev/null
    ip -d -o link show br-lan 2>/dev/null | grep -o 'mtu [0-9]*\|vlan_filtering [01]\|vlan_default_pvid [0-9]*'
}

pod() { for name; do { ip netns add "$name" && ip -n "$name" link set lo up; } >/tmp/pod 2>&1 || fault "namespace $name: $(cat /tmp/pod)"; done; }

# cni VERB PROGRAM CONTAINER CONF: sets out and rc. The container's id is its namespace's name; ifname and args may be set before.
ifname=eth0
args=
cni() {
    out=$(printf '%s\n' "$4" | CNI_COMMAND=$1 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/$3 CNI_IFNAME=$ifname CNI_ARGS=$args \
        CNI_PATH=$plugins "$plugins/$2" 2>/tmp/stderr)
    rc=$?
}

# What must succeed.
ok() {
    cni "$@"
    [ $rc = 0 ] || fault "$1 $2 $3: exit $rc: $out $(tail -3 /tmp/stderr)"
}

# refused CODE VERB PROGRAM CONTAINER CONF: fails, and the error has this, a TRnnnn or a part of its JSON without blanks.
refused() {
    code=$1
    shift
    cni "$@"
    [ $rc != 0 ] || fault "$1 $2 $3 succeeded, wanted $code"
    case $(printf '%s' "$out" | tr -d ' \n\t') in
    *"$code"*) ;;
    *) fault "$1 $2 $3: wanted $code, got: $out; configuration: $4" ;;
    esac
}

# conf TYPE KEYS: a configuration of network `lan`; KEYS is a part of a JSON object.
conf() { echo "{\"cniVersion\": \"1.0.0\", \"name\": \"lan\", \"type\": \"$1\", \"bridge\": \"br-lan\"${2:+, $2}}"; }

# with_prev CONF RESULT
with_prev() { echo "${1%\}}, \"prevResult\": $2}"; }

# attach TYPE POD [KEYS]: ADD; sets its configuration c, its result added, and checked, which a CHECK is to be given.
attach() {
    c=$(conf "$1" "${3:-}")
    ok ADD "$1" "$2" "$c"
    added=$out
    checked=$(with_prev "$c" "$added")
}

# check TYPE POD, detach TYPE POD: by what `attach` did last.
check() { ok CHECK "$1" "$2" "$checked"; }
detach() {
    ok DEL "$1" "$2" "$c"
    clean
}

# The host's end of the veth of the pod: the one whose peer has the pod's index.
host_end() {
    index=$(ip -n "$1" -o link show "$ifname" 2>/dev/null | sed 's/.*@if\([0-9]*\):.*/\1/')
    ip -o link | sed -n "s/^$index: \([^@:]*\).*/\1/p"
}

# The VLANs of a port in one line: "5 PVID Egress Untagged,10,11".
vlans() { bridge vlan show dev "$1" 2>/dev/null | sed "1d; s/^$1//" | sed 's/^[ \t]*//; s/[ \t]*$//' | grep . | tr '\n' ',' | sed 's/,$//'; }

port_has() { same "VLANs on the port of $1" "$(vlans "$(host_end "$1")")" "$2"; }

# frame FROM IF VID|- TO IF WANTED
frame() { same "frame $1 $2 ($3) to $4 $5" "$(frames pass "$1" "$2" "$3" "$4" "$5" 2>&1)" "$6"; }

# The agent of the node, beside what follows. There is no API server for it.
agent() {
    echo '{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:9"}}], "users": [{"name": "u", "user": {}}]}' >/tmp/kubeconfig
    "$plugins/trestle" agent --node n1 --no-metrics --kubeconfig /tmp/kubeconfig >/tmp/agent 2>&1 &
    agent=$!
    eventually "the agent is at work" test -S /run/trestle/agent.sock
}

agent_ends() {
    kill "$agent"
    wait "$agent"
}

# eventually WHAT COMMAND...: within 30 s, as the machine is emulated.
eventually() {
    what=$1
    shift
    n=0
    while ! "$@"; do
        n=$((n + 1))
        [ $n -lt 150 ] || { fault "not within 30 s: $what; $(tail -3 /tmp/agent)"; return; }
        sleep 0.2
    done
}

# sound CONTAINER CONF: CHECK passes.
sound() {
    cni CHECK trestle "$1" "$2"
    [ $rc = 0 ]
}

# port_is CONTAINER FLAG...: of `bridge -d link`, each "on".
port_is() {
    shown=$(bridge -d link show dev "$(host_end "$1")")
    shift
    for flag; do case $shown in *"$flag on"*) ;; *) fault "$flag is not on: $shown" ;; esac; done
}

# Nothing of an attachment is left, and the bridge and its uplink are as they were.
clean() {
    left=$(ip -o link show type veth; ip -o link show type macvlan)
    same "links left on the node" "$left" ""
    for name in $(ip netns list | sed 's/ .*//' | grep -v '^lan$'); do
        same "links left in $name" "$(ip -n "$name" -o link | grep -v ': lo:')" ""
    done
    same "journal" "$(find /run/trestle/journal -type f 2>/dev/null)" ""
    same "bridge and uplink" "$(untouched)" "$before"
}

teardown() {
    for name in $(ip netns list | sed 's/ .*//' | grep -v '^lan$'); do ip netns del "$name"; done
    ip link set eth0 nomaster down
    for link in br-lan br-new eth0.5 dummy0; do ip link del $link 2>/dev/null; done
    ip -n lan link del eth1.5 2>/dev/null
    # A veth goes with its namespace, but a little later.
    n=0
    while [ -n "$(ip -o link show type veth)" ] && [ $n -lt 20 ]; do n=$((n + 1)) && sleep 0.1; done
    for link in $(ip -o link show type veth | sed 's/^[0-9]*: \([^@:]*\).*/\1/'); do ip link del "$link" 2>/dev/null; done
    rm -rf /run/trestle /var/lib/trestle /var/lib/cni
    ifname=eth0 args= plugins=/test/trestle
}

# run NAME COMMAND...
run() {
    title=$1
    shift
    faults=
    "$@"
    teardown
    if [ -z "$faults" ]; then
        passed=$((passed + 1))
        echo "  ok   $title"
    else
        failed=$((failed + 1))
        echo "  FAIL $title$faults" | sed '2,$s/^ */  |    /'
    fi
}
