# VLANs of `type: trestle` and of the drop-in `bridge`, which runs against the reference plugin in the same way.
. ./lib.sh

TRUNK='"vlanTrunk": [{"id": 5}, {"minID": 10, "maxID": 12}]'

# Values that both types refuse.
BAD='"vlan": 4095|"vlan": -1|"vlan": "5"|"vlanTrunk": [{"minID": 12, "maxID": 10}]|"vlanTrunk": [{"minID": 12}]|"vlanTrunk": [{"id": 4095}]|"vlanTrunk": 5'

# --- type trestle

access_port() {
    node 1 5 6
    pod a
    attach trestle a '"vlan": 5'
    port_has a "5 PVID Egress Untagged"
    frame a eth0 - lan eth1 "vid 5"
    frame lan eth1 5 a eth0 untagged
    frame lan eth1 6 a eth0 nothing
    frame lan eth1 - a eth0 nothing
    check trestle a
    detach trestle a
}

no_vlan_stays_untagged() {
    node 1
    pod a
    attach trestle a
    port_has a "1 PVID Egress Untagged"
    frame a eth0 - lan eth1 untagged
    frame lan eth1 - a eth0 untagged
    detach trestle a
}

trunk() {
    node 1 5 10 11 12 13
    pod a
    attach trestle a "$TRUNK"
    port_has a "5,10,11,12"
    frame a eth0 5 lan eth1 "vid 5"
    frame a eth0 11 lan eth1 "vid 11"
    frame lan eth1 12 a eth0 "vid 12"
    frame a eth0 13 lan eth1 nothing
    # No native VLAN: untagged frames go nowhere.
    frame a eth0 - lan eth1 nothing
    frame lan eth1 - a eth0 nothing
    check trestle a
    detach trestle a
}

# More VLANs than one netlink message has room for, were they not told in ranges.
whole_trunk() {
    node 1 2-4094
    pod a
    attach trestle a '"vlanTrunk": [{"minID": 2, "maxID": 4094}]'
    same "number of VLANs" "$(vlans "$(host_end a)" | tr ',' '\n' | grep -c .)" 4093
    frame a eth0 4094 lan eth1 "vid 4094"
    frame lan eth1 2 a eth0 "vid 2"
    check trestle a
    bridge vlan del dev "$(host_end a)" vid 3000
    refused TR0313 CHECK trestle a "$checked"
    detach trestle a
}

trunk_keeps_default_vlan() {
    node 1 5 10 11 12
    pod a
    attach trestle a "$TRUNK, \"preserveDefaultVlan\": true"
    port_has a "1 PVID Egress Untagged,5,10,11,12"
    frame a eth0 - lan eth1 untagged
    frame lan eth1 - a eth0 untagged
    frame a eth0 10 lan eth1 "vid 10"
    detach trestle a
}

access_with_trunk() {
    node 1 5 10 11 12
    pod a
    attach trestle a '"vlan": 5, "vlanTrunk": [{"minID": 10, "maxID": 12}]'
    port_has a "5 PVID Egress Untagged,10,11,12"
    frame a eth0 - lan eth1 "vid 5"
    frame a eth0 10 lan eth1 "vid 10"
    frame lan eth1 5 a eth0 untagged
    detach trestle a
}

access_keeps_default_vlan() {
    node 1 5
    pod a
    attach trestle a '"vlan": 5, "preserveDefaultVlan": true'
    port_has a "1 Egress Untagged,5 PVID Egress Untagged"
    frame a eth0 - lan eth1 "vid 5"
    detach trestle a
}

vlans_separate_pods() {
    node 1 5 6
    pod a b c
    for name in a c; do attach trestle $name '"vlan": 5'; done
    attach trestle b '"vlan": 6'
    frame a eth0 - c eth0 untagged
    frame a eth0 - b eth0 nothing
    frame b eth0 - lan eth1 "vid 6"
    for name in a b c; do ok DEL trestle $name "$c"; done
    clean
}

ping_across() {
    node 1 5
    pod a
    ip -n lan link add link eth1 name eth1.5 type vlan id 5
    ip -n lan addr add 10.5.0.1/24 dev eth1.5
    ip -n lan link set eth1.5 up
    attach trestle a '"vlan": 5, "ipam": {"type": "static", "addresses": [{"address": "10.5.0.2/24"}]}'
    ip netns exec a ping -c 1 -W 5 10.5.0.1 >/tmp/ping || fault "no answer: $(tail -2 /tmp/ping)"
    detach trestle a
}

# Runs every command that the refusal printed, as a reader would.
obey() {
    echo "$out" | grep -o 'bridge vlan add dev [a-z0-9.]* vid [0-9]*\(-[0-9]*\)\?' | sort -u >/tmp/commands
    [ -s /tmp/commands ] || fault "no 'bridge vlan add' in: $out"
    while read -r command; do $command || fault "failed: $command"; done </tmp/commands
    before=$(untouched)
}

uplink_lacks_vid() {
    node 1 6
    pod a
    c=$(conf trestle '"vlan": 5')
    refused TR0306 ADD trestle a "$c"
    clean
    obey
    same "uplink after the printed command" "$(vlans eth0)" "1 PVID Egress Untagged,5,6"
    ok ADD trestle a "$c"
    frame a eth0 - lan eth1 "vid 5"
    detach trestle a
}

uplink_lacks_part_of_trunk() {
    node 1 5 10
    pod a
    c=$(conf trestle "$TRUNK")
    refused TR0306 ADD trestle a "$c"
    clean
    obey
    same "uplink after the printed command" "$(vlans eth0)" "1 PVID Egress Untagged,5,10,11,12"
    ok ADD trestle a "$c"
    frame a eth0 12 lan eth1 "vid 12"
    detach trestle a
}

# A preserved native VLAN that the uplink does not have is not what was asked for in `vlan`: no refusal. But one of two
# uplinks is enough.
one_of_two_uplinks() {
    node 1
    pod a
    ip link add dummy0 type dummy
    ip link set dummy0 master br-lan up
    refused TR0306 ADD trestle a "$(conf trestle '"vlan": 5')"
    bridge vlan add dev dummy0 vid 5
    attach trestle a '"vlan": 5'
    detach trestle a
}

untagged_uplink() {
    node 1
    pod a
    bridge vlan add dev eth0 vid 5 pvid untagged
    before=$(untouched)
    attach trestle a '"vlan": 5'
    frame a eth0 - lan eth1 untagged
    frame lan eth1 - a eth0 untagged
    detach trestle a
}

filtering_off() {
    node 0 5
    pod a
    refused TR0305 ADD trestle a "$(conf trestle '"vlan": 5')"
    clean
    refused TR0305 ADD trestle a "$(conf trestle "$TRUNK")"
    clean
}

# No VLAN is asked for, but the bridge gives its ports none: every frame would be dropped.
no_default_pvid() {
    node 1
    ip link set br-lan type bridge vlan_default_pvid 0
    before=$(untouched)
    pod a
    refused TR03 ADD trestle a "$(conf trestle)"
    clean
    # With a VLAN of its own the port has one.
    bridge vlan add dev eth0 vid 5
    before=$(untouched)
    attach trestle a '"vlan": 5'
    frame a eth0 - lan eth1 "vid 5"
    detach trestle a
}

no_uplink() {
    node 1
    ip link set eth0 nomaster
    before=$(untouched)
    pod a b
    attach trestle a '"vlan": 5'
    port_has a "5 PVID Egress Untagged"
    # A pod's port is no uplink, although it does not carry VID 6.
    attach trestle b '"vlan": 6'
    frame a eth0 - b eth0 nothing
    for name in a b; do ok DEL trestle $name "$c"; done
    clean
}

check_misses_vid() {
    node 1 5
    pod a
    attach trestle a '"vlan": 5'
    port=$(host_end a)
    bridge vlan del dev "$port" vid 5
    refused TR0313 CHECK trestle a "$checked"
    bridge vlan add dev "$port" vid 5 # there again, but tagged: the pod does not see its frames
    refused TR0313 CHECK trestle a "$checked"
    bridge vlan add dev "$port" vid 5 pvid untagged
    check trestle a
    detach trestle a
}

check_misses_trunk_vid() {
    node 1 5 10 11 12
    pod a
    attach trestle a "$TRUNK"
    bridge vlan del dev "$(host_end a)" vid 11
    refused TR0313 CHECK trestle a "$checked"
    detach trestle a
}

fallback_refuses_vlan() {
    node 1 5
    ip link del br-lan
    ip link set eth0 up
    before=$(untouched)
    pod a
    for key in '"vlan": 5' "$TRUNK"; do
        refused TR0204 ADD trestle a "$(conf trestle "\"master\": \"eth0\", $key")"
        clean
    done
}

macvlan_on_vlan_link() {
    node 1
    ip link del br-lan
    ip link set eth0 up
    ip link add link eth0 name eth0.5 type vlan id 5
    ip link set eth0.5 up
    before=$(untouched)
    pod a
    attach trestle a '"master": "eth0.5"'
    frame a eth0 - lan eth1 "vid 5"
    frame lan eth1 5 a eth0 untagged
    detach trestle a
}

# vm_attach KEYS: a VM's wire, and its bind step; port is the wire's.
vm_attach() {
    ifname=pod094a367b026 args='IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=virt-launcher-x-abcde'
    attach trestle a "$1"
    port=$(host_end a)
    bind='{"cniVersion": "1.0.0", "name": "bind", "type": "trestle", "args": {"cni": {"logicNetworkName": "lan"}}}'
    ifname=net1
    ok ADD trestle a "$bind"
}

# Its frames pass in VLAN 5, and nothing is left of either.
vm_passes_and_goes() {
    frame a pod094a367b026 - lan eth1 "vid 5"
    frame lan eth1 5 a pod094a367b026 untagged
    ok DEL trestle a "$bind"
    ifname=pod094a367b026
    detach trestle a
}

vm_wire() {
    node 1 5
    pod a
    vm_attach '"vlan": 5'
    same "VLANs on the VM's port" "$(vlans "$port")" "5 PVID Egress Untagged"
    ip -n a -o link show tap094a367b026 >/dev/null 2>&1 || fault "no tap: $(ip -n a -o link)"
    vm_passes_and_goes
}

# The filters around a machine's DHCP: CHECK compares their programs with what the kernel lists.
vm_with_address() {
    node 1 5
    pod a
    vm_attach '"vlan": 5, "ipam": {"type": "static", "addresses": [{"address": "10.5.0.2/24"}]}'
    grep -q '"host_mac"' /run/trestle/journal/a/net1.bind.json || fault "nothing to be given: $(cat /run/trestle/journal/a/net1.bind.json)"
    ok CHECK trestle a "$(with_prev "$bind" '{"cniVersion": "1.0.0"}')"
    vm_passes_and_goes
}

# As NetworkManager or `restart network` throws a port off; then somebody who takes a part away; then a bridge made anew.
agent_puts_a_port_back() {
    node 1 5 10 11 12
    pod a
    attach trestle a '"vlan": 5, "vlanTrunk": [{"minID": 10, "maxID": 12}], "portIsolation": true, "hairpinMode": true'
    port=$(host_end a)
    agent
    for how in nomaster vlan flags bridge; do
        case $how in
        nomaster) ip link set "$port" nomaster ;;
        vlan) bridge vlan del dev "$port" vid 5 ;;
        flags) bridge link set dev "$port" isolated off hairpin off ;;
        bridge) ip link del br-lan && node 1 5 10 11 12 ;;
        esac
        eventually "sound after $how" sound a "$checked"
        port_has a "5 PVID Egress Untagged,10,11,12"
        port_is a hairpin isolated
        frame a eth0 - lan eth1 "vid 5"
        frame a eth0 11 lan eth1 "vid 11"
        frame lan eth1 5 a eth0 untagged
        # VID 1 of the uplink is not the pod's: no instant of it was left behind.
        frame lan eth1 - a eth0 nothing
    done
    agent_ends
    detach trestle a
}

# Somebody else takes the port off its bridge and puts it back at once: the bridge gives it VLAN 1 then. Others add one by hand.
agent_takes_foreign_vlans() {
    node 1 10
    pod a
    attach trestle a '"vlan": 10'
    port=$(host_end a)
    printf 'link set %s nomaster\nlink set %s master br-lan\n' "$port" "$port" | ip -batch -
    port_has a "1 PVID Egress Untagged"
    refused TR0313 CHECK trestle a "$checked"
    bridge vlan add dev "$port" vid 10 pvid untagged
    port_has a "1 Egress Untagged,10 PVID Egress Untagged"
    refused TR0402 CHECK trestle a "$checked"
    frame lan eth1 - a eth0 untagged
    agent
    for how in begin again hand; do
        case $how in
        again) printf 'link set %s nomaster\nlink set %s master br-lan\n' "$port" "$port" | ip -batch - ;;
        hand) bridge vlan add dev "$port" vid 77-79 ;;
        esac
        eventually "VLAN 10 alone, $how" sound a "$checked"
        port_has a "10 PVID Egress Untagged"
        frame lan eth1 - a eth0 nothing
        frame a eth0 - lan eth1 "vid 10"
        frame lan eth1 10 a eth0 untagged
    done
    agent_ends
    detach trestle a
}

agent_puts_a_trunk_back() {
    node 1 5 10 11 12
    pod a b
    attach trestle a "$TRUNK"
    trunk=$checked
    attach trestle b "$TRUNK, \"preserveDefaultVlan\": true"
    default=$checked
    agent
    ip link set "$(host_end a)" nomaster
    ip link set "$(host_end b)" nomaster
    eventually "the trunk is sound" sound a "$trunk"
    eventually "the trunk with the default VLAN is sound" sound b "$default"
    port_has a "5,10,11,12"
    port_has b "1 PVID Egress Untagged,5,10,11,12"
    frame a eth0 - lan eth1 nothing
    frame b eth0 - lan eth1 untagged
    frame lan eth1 12 a eth0 "vid 12"
    agent_ends
    for name in a b; do ok DEL trestle $name "$c"; done
    clean
}

# refuses_bad TYPE CODE LIST: each of the values by one error that names the key, and nothing is left.
refuses_bad() {
    node 1 5
    pod a
    IFS='|'
    set -- "$1" "$2" $3
    unset IFS
    type=$1 wanted=$2
    shift 2
    for key; do
        refused "$wanted" ADD "$type" a "$(conf "$type" "$key")"
        case $out in
        *[vV]lan* | *VLAN* | *ID* | *trunk*) ;;
        *) fault "$key: the message does not name it: $out" ;;
        esac
        clean
    done
}

# --- the drop-in type: $1 is the directory of the plugins

# dropin DIR KEYS VLANS: attach on a filtering bridge, look at the port, delete.
dropin() {
    plugins=$1
    node 1 5 10 11 12
    pod a
    attach bridge a "$2"
    port_has a "$3"
    detach bridge a
}

dropin_frames() {
    plugins=$1
    node 1 5
    pod a
    attach bridge a '"vlan": 5'
    frame a eth0 - lan eth1 "vid 5"
    frame lan eth1 5 a eth0 untagged
    frame lan eth1 - a eth0 nothing
    detach bridge a
}

# The original says nothing about an uplink without the VID, nor about a bridge that does not filter.
dropin_uplink_lacks_vid() {
    plugins=$1
    node 1
    pod a
    attach bridge a '"vlan": 5'
    frame a eth0 - lan eth1 nothing
    same "uplink" "$(vlans eth0)" "1 PVID Egress Untagged"
    detach bridge a
}

dropin_filtering_off() {
    plugins=$1
    node 0
    pod a
    attach bridge a '"vlan": 5'
    port_has a "5 PVID Egress Untagged"
    frame a eth0 - lan eth1 untagged
    detach bridge a
}

new_bridge_filters() { same "new bridge" "$(ip -d -o link show br-new | grep -o 'vlan_filtering [01]')" "vlan_filtering 1"; }

dropin_makes_filtering_bridge() {
    plugins=$1
    node 1
    pod a
    c='{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br-new", "vlan": 5}'
    ok ADD bridge a "$c"
    new_bridge_filters
    port_has a "5 PVID Egress Untagged"
    detach bridge a
    # A trunk that is there but empty is enough for it.
    pod b
    ip link del br-new
    c='{"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br-new", "vlanTrunk": []}'
    ok ADD bridge b "$c"
    new_bridge_filters
    port_has b "1 PVID Egress Untagged"
    ok DEL bridge b "$c"
}

# The gateway of a VLAN is a veth pair from the node into the bridge, and stays.
dropin_gateway() {
    plugins=$1
    node 1 5
    pod a b
    attach bridge a '"vlan": 5, "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"}'
    echo "$added" | grep -q '"br-lan.5"' || fault "br-lan.5 is not in the result: $added"
    same "gateway" "$(ip -o -4 addr show br-lan.5 | grep -o 'inet [0-9./]*')" "inet 10.5.0.1/24"
    port=$(ip -o link show br-lan.5 | sed 's/.*br-lan.5@\([^:]*\):.*/\1/')
    same "port of the gateway" "$(vlans "$port")" "5 PVID Egress Untagged"
    ip netns exec a ping -c 1 -W 5 10.5.0.1 >/tmp/ping || fault "no answer: $(tail -2 /tmp/ping)"
    check bridge a
    ok ADD bridge b "$c"
    same "pairs" "$(ip -o link show type veth | wc -l)" 4
    for name in a b; do ok DEL bridge $name "$c"; done
    same "the gateway stays" "$(ip -o link show type veth | wc -l)" 2
    for name in a b; do same "links left in $name" "$(ip -n $name -o link | grep -v ': lo:')" ""; done
}

dropin_bad_values() {
    plugins=$1
    refuses_bad bridge '"code":999' "$BAD"
}

# A pod of the original is deleted by ours.
dropin_takes_over() {
    node 1 5
    pod a
    plugins=/test/reference
    attach bridge a '"vlan": 5, "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"}'
    plugins=/test/trestle
    check bridge a
    detach bridge a
    same "addresses left" "$(find /var/lib/cni -name '10.*')" ""
}

# --- leases

# The wall clock is set by a day, forth and back; only a machine of one's own can show it. Leases run by the boot clock.
clock_jumps() {
    node 1
    ip -n lan addr add 10.9.0.1/24 dev eth1
    mkdir -p /var/lib/misc
    : >/tmp/udhcpd.leases
    printf '%s\n' "start 10.9.0.10" "end 10.9.0.20" "interface eth1" "lease_file /tmp/udhcpd.leases" \
        "pidfile /tmp/udhcpd.pid" "option lease 30" "option subnet 255.255.255.0" "min_lease 10" >/tmp/udhcpd.conf
    ip netns exec lan udhcpd -f /tmp/udhcpd.conf >/tmp/udhcpd.log 2>&1 &
    server=$!
    "$plugins/trestle" dhcp daemon -socketpath /tmp/dhcp.sock >/tmp/keeper.log 2>&1 &
    keeper=$!
    pod a
    attach trestle a '"ipam": {"type": "dhcp"}'
    for days in 1 -1; do
        date -s "@$(($(date +%s) + days * 86400))" >/dev/null
        renewed_within 25 "the clock $days days on"
    done
    same "leases lost" "$(grep -c 'asking for another one' /tmp/keeper.log)" 0
    ok DEL trestle a "$c"
    kill $keeper $server
    wait $keeper $server
    ip -n lan addr del 10.9.0.1/24 dev eth1
    clean
}

# renewed_within SECONDS WHEN: the address of a gets more of its time than it has now.
renewed_within() {
    left=$(valid_time)
    n=0
    while [ $n -lt "$1" ]; do
        sleep 1
        now=$(valid_time)
        [ "${now:-0}" -le "${left:-0}" ] || return 0
        left=$now
        n=$((n + 1))
    done
    fault "not renewed within $1 s, $2: $(ip -n a -o -4 addr show dev eth0; tail -5 /tmp/keeper.log)"
}

valid_time() { ip -n a -4 addr show dev eth0 | sed -n 's/.*valid_lft \([0-9]*\)sec.*/\1/p'; }

run "access port" access_port
run "no vlan: untagged" no_vlan_stays_untagged
run "trunk" trunk
run "trunk of all VLANs" whole_trunk
run "no default PVID" no_default_pvid
run "trunk, preserveDefaultVlan" trunk_keeps_default_vlan
run "access port with a trunk" access_with_trunk
run "access port, preserveDefaultVlan" access_keeps_default_vlan
run "VLANs separate pods" vlans_separate_pods
run "ping across" ping_across
run "uplink lacks the VID" uplink_lacks_vid
run "uplink lacks a part of the trunk" uplink_lacks_part_of_trunk
run "one of two uplinks" one_of_two_uplinks
run "uplink untagged" untagged_uplink
run "vlan_filtering off" filtering_off
run "no uplink" no_uplink
run "CHECK misses the VID" check_misses_vid
run "CHECK misses a VID of the trunk" check_misses_trunk_vid
run "macvlan fallback refuses vlan" fallback_refuses_vlan
run "macvlan on a VLAN link" macvlan_on_vlan_link
run "a VM's wire and tap" vm_wire
run "agent puts a port back" agent_puts_a_port_back
run "agent takes foreign VLANs away" agent_takes_foreign_vlans
run "agent puts a trunk back" agent_puts_a_trunk_back
run "leases while the clock jumps" clock_jumps
run "a VM with an address" vm_with_address
# The original takes an element without a VID for nothing.
run "bad values" refuses_bad trestle TR01 "$BAD|\"vlanTrunk\": [{}]"
for whose in reference trestle; do
    dir=/test/$whose
    run "bridge of $whose: vlan" dropin $dir '"vlan": 5' "5 PVID Egress Untagged"
    run "bridge of $whose: vlan 0" dropin $dir '"vlan": 0' "1 PVID Egress Untagged"
    run "bridge of $whose: trunk gets native VLAN 1" dropin $dir "$TRUNK" "1 PVID Egress Untagged,5,10,11,12"
    run "bridge of $whose: vlan and trunk" dropin $dir '"vlan": 5, "vlanTrunk": [{"id": 10}]' "5 PVID Egress Untagged,10"
    # The reference adds the VID twice, and the second time takes it from the untagged frames that vlan asked for.
    both="5,10,11,12"
    [ $whose = reference ] || both="5 PVID Egress Untagged,10,11,12"
    run "bridge of $whose: the VID in both" dropin $dir "\"vlan\": 5, $TRUNK" "$both"
    run "bridge of $whose: vlan, preserveDefaultVlan" dropin $dir '"vlan": 5, "preserveDefaultVlan": true' \
        "1 Egress Untagged,5 PVID Egress Untagged"
    run "bridge of $whose: trunk, preserveDefaultVlan" dropin $dir "$TRUNK, \"preserveDefaultVlan\": true" \
        "1 PVID Egress Untagged,5,10,11,12"
    run "bridge of $whose: frames" dropin_frames $dir
    run "bridge of $whose: uplink lacks the VID" dropin_uplink_lacks_vid $dir
    run "bridge of $whose: vlan_filtering off" dropin_filtering_off $dir
    run "bridge of $whose: makes a filtering bridge" dropin_makes_filtering_bridge $dir
    run "bridge of $whose: gateway of a VLAN" dropin_gateway $dir
    run "bridge of $whose: bad values" dropin_bad_values $dir
done
run "bridge of reference, taken over" dropin_takes_over
echo "$passed passed, $failed failed"
