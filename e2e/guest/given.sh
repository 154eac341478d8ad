# Sourced by e2e/guest/run: a guest whose address the node gives, by the agent. What the LAN's server has heard, its log says.

GIVER=169.254.67.67

agent_starts() {
    cat >"$WORK/kubeconfig" <<'CONFIG'
{"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
 "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {"token": "t"}}]}
CONFIG
    # No API server is there, and none is needed for it.
    "$WORK/trestle" agent --node n1 --no-metrics --kubeconfig "$WORK/kubeconfig" >>"$WORK/agent.log" 2>&1 &
    agent=$!
    # Without a word of the shell when it is killed.
    disown
}
# The next one waits for its lock.
agent_dies() { kill -9 "$agent"; }

# The LAN's server hears of the guest only what our own client asks for it.
lan_heard() { grep -c "$(pod_mac)" "$WORK/dnsmasq.log"; }
no_guests_frame() {
    grep -q '^up0 in ' "$WORK/frames.log" || { echo "the watcher saw no frame at all"; return 1; }
    ! grep "in $(pod_mac) >" "$WORK/frames.log"
}
link_has_no_address() { same "$(in_pod ip -o -4 addr show dev "pod$H")" ""; }
lan_pings() { lan_ping -c 3 -W 5 "$1"; }

# given NAME IPAM [ADDRESS]: one pod's life with an address that ADD got by this IPAM.
given() {
    scenario=$1 ipam=$2 queues_note=
    local address heard watcher
    ip netns add pod
    in_pod ip link set lo up
    "$WORK/frames" watch >"$WORK/frames.log" &
    watcher=$!
    within 5 grep -q ready "$WORK/frames.log"
    if must "wire ADD" cni ADD wire && must "bind ADD" cni ADD bind; then
        address=$(tr -d ' \n' <"$WORK/result.wire" | sed -n 's/.*"address":"\([0-9.]*\).*/\1/p')
        claim "the expected address" same "$address" "${3:-$address}"
        claim "no address on the pod's link" link_has_no_address
        claim "CHECK wire" cni CHECK wire
        claim "CHECK bind" cni CHECK bind
        for _ in 1 2; do bait; done
        claim "no frame has the guest's MAC before it speaks" no_guests_frame
        heard=$(lan_heard || true)
        agent_starts
        if must "libvirt starts" start_libvirt && must "domain starts" start_guest 1; then life_with "$address" "$heard"; fi
        claim "destroy" virsh destroy guest
    fi
    kill "$watcher" && wait "$watcher" 2>/dev/null || true
    [ ! -e "$WORK/home/libvirtd.pid" ] || claim "libvirt ends" stop_libvirt
    claim "DEL bind" cni DEL bind
    claim "DEL wire" cni DEL wire
    claim "nothing left" nothing_left
    claim "the agent ends" agent_dies
    # Else it would be asked for the next machine.
    rm -f /run/trestle/agent.sock /var/lib/trestle/agent
    ip netns del pod
    rm -rf "$WORK/home"
    ipam=
}

life_with() {
    local bound="bound $1 from $GIVER host x"
    must "guest is given $1" guest_tells 1 "$bound" || { tail -20 "$WORK/agent.log"; return 0; }
    must "guest is up" guest_tells 1 ready || return 0
    claim "guest pings its router" guest_tells 1 "ping 10.77.0.1 ok"
    claim "LAN pings the guest" lan_pings "$1"
    claim "agent is killed" agent_dies
    claim "LAN pings the guest without an agent" lan_pings "$1"
    agent_starts
    if [ "$scenario" = dhcp ]; then
        # The server's shortest lease is two minutes: the keeper renews it after one, and the guest within that time.
        claim "guest renews by the new agent" guest_tells 1 "renew $1 from $GIVER host x"
    else
        claim "the LAN's server heard nothing" same "$(lan_heard || true)" "$2"
    fi
    claim "reset" virsh reset guest
    must "guest is given it again" guest_tells 2 "$bound" || return 0
    must "guest is up again" guest_tells 2 ready || return 0
    claim "LAN pings after the reset" lan_pings "$1"
}
