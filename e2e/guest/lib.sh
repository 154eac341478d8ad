# Sourced by e2e/guest/run inside its namespaces: the node, the LAN, the pod, and the guest's life in it.

H=094a367b026 # of KubeVirt's network name `lan`
POD_NAME=virt-launcher-x-abcde
POD=/run/netns/pod
passed=0
ipam= # of the wire; none: the LAN gives the guest its address
failed=0

# claim NAME COMMAND...: one line of the result. A failure does not end the scenario; `must` tells it to the caller, too.
claim() { must "$@" || true; }
must() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "  ok   $scenario: $name"
    else
        failed=$((failed + 1))
        echo "  FAIL $scenario: $name"
        sed 's/^/  |    /' <<<"$said"
        return 1
    fi
}

same() { [ "$1" = "$2" ] || { echo "got '$1', wanted '$2'"; return 1; }; }

# within SECONDS COMMAND...
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "not within the time: $*"; return 1; }
        sleep 0.3
    done
}

# Only what a pod has: no /dev/kvm, so that nothing but software emulation can be used; and a user 107.
small_dev() {
    mount -t tmpfs dev /dev
    mkdir -p /dev/net /dev/shm /dev/pts
    mknod -m 666 /dev/null c 1 3
    mknod -m 666 /dev/zero c 1 5
    mknod -m 666 /dev/full c 1 7
    mknod -m 666 /dev/random c 1 8
    mknod -m 666 /dev/urandom c 1 9
    mknod -m 666 /dev/tty c 5 0
    mknod -m 666 /dev/net/tun c 10 200
    mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
    ln -s pts/ptmx /dev/ptmx
    ln -s /proc/self/fd /dev/fd
    { echo "qemu:x:107:107::$WORK/home:/bin/sh"; cat /etc/passwd; } >"$WORK/passwd"
    { echo "qemu:x:107:"; cat /etc/group; } >"$WORK/group"
    mount --bind "$WORK/passwd" /etc/passwd
    mount --bind "$WORK/group" /etc/group
}

# br-lan with an uplink into the namespace `lan`, where 10.77.0.1 gives leases.
node() {
    mount -t tmpfs run /run
    export TRESTLE_STATE_DIR=$WORK/state
    mount -t sysfs sysfs /sys
    small_dev
    ip link set lo up
    # Snooping would keep the pod's MLD reports from the LAN; nothing may be hidden here.
    ip link add br-lan type bridge mcast_snooping 0
    ip link set br-lan up
    ip netns add lan
    ip link add up0 type veth peer name lan0 netns lan
    ip link set up0 master br-lan up
    ip -n lan link set lo up
    ip -n lan addr add 10.77.0.1/24 dev lan0
    ip -n lan link set lan0 up
    ip netns exec lan dnsmasq --no-daemon --conf-file=/dev/null --user=root --port=0 --bind-interfaces --interface=lan0 \
        --dhcp-range=10.77.0.100,10.77.0.200,2m --dhcp-sequential-ip --dhcp-option=option:router,10.77.0.1 --no-ping --dhcp-authoritative \
        --dhcp-leasefile="$WORK/leases" --pid-file= >"$WORK/dnsmasq.log" 2>&1 &
}

# cni VERB ROLE: sets out; the configuration of the role, annotations by the runtime's capability.
cni() {
    local ifname=pod$H conf
    local annotations="\"runtimeConfig\": {\"io.kubernetes.cri.pod-annotations\": {\"kubevirt.io/domain\": \"x\"${queues_note}}}"
    if [ "$2" = wire ]; then
        conf="{\"cniVersion\": \"1.0.0\", \"name\": \"br-lan\", \"type\": \"trestle\", \"bridge\": \"br-lan\"${ipam:+, \"ipam\": $ipam}, $annotations"
    else
        ifname=net1
        conf="{\"cniVersion\": \"1.0.0\", \"name\": \"trestle-binding\", \"type\": \"trestle\", \"args\": {\"cni\": {\"logicNetworkName\": \"lan\"}}, $annotations"
    fi
    [ "$1" != CHECK ] || conf="$conf, \"prevResult\": $(cat "$WORK/result.$2")"
    CNI_COMMAND=$1 CNI_CONTAINERID=sandbox CNI_NETNS=$POD CNI_IFNAME=$ifname CNI_PATH=$WORK \
        CNI_ARGS="IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=$POD_NAME" \
        "$WORK/trestle" <<<"$conf}" >"$WORK/out" 2>"$WORK/err" || { cat "$WORK/out" "$WORK/err"; return 1; }
    [ "$1" != ADD ] || cp "$WORK/out" "$WORK/result.$2"
}

# CONTRACT: sha256(seed, 0, namespace, 0, VM, 0, key), local bit set, multicast bit clear. No seed on this node.
derived_mac() {
    local hex
    hex=$(printf '\0%s\0%s\0%s' default x $H | sha256sum)
    printf '%02x:%s\n' $((0x${hex:0:2} & 0xfe | 2)) "$(sed 's/../&:/g' <<<"${hex:2:10}" | sed 's/:$//')"
}

in_pod() { ip netns exec pod "$@"; }
pod_mac() { in_pod cat "/sys/class/net/pod$H/address"; }
host_end() { ip -o link show master br-lan | sed 's/^[0-9]*: \([^@:]*\).*/\1/' | grep -v '^up0$'; }

as_qemu() {
    in_pod setpriv --reuid 107 --regid 107 --clear-groups --bounding-set -all --inh-caps -all --no-new-privs \
        env -i PATH="$PATH" LIBVIRT_AUTOSTART=0 HOME="$WORK/home" XDG_RUNTIME_DIR="$WORK/home/run" XDG_CONFIG_HOME="$WORK/home/config" \
        XDG_CACHE_HOME="$WORK/home/cache" "$@"
}
virsh() { as_qemu virsh -q -c qemu:///session "$@"; }

# (Without LIBVIRT_AUTOSTART=0 a virsh that comes too early would start a libvirtd of its own.)
start_libvirt() {
    rm -rf "$WORK/home"
    mkdir -p "$WORK/home/run" "$WORK/home/config/libvirt"
    # The console goes straight to its file, without virtlogd.
    echo 'stdio_handler = "file"' >"$WORK/home/config/libvirt/qemu.conf"
    chown -R 107:107 "$WORK/home"
    as_qemu libvirtd --pid-file "$WORK/home/libvirtd.pid" >"$WORK/home/libvirtd.log" 2>&1 &
    within 30 virsh list
}

# A process that stayed would keep the pod's namespace, and its links, alive.
stop_libvirt() {
    kill "$(cat "$WORK/home/libvirtd.pid")"
    within 20 bash -c "! ip netns pids pod | grep ."
}

only_user_107() {
    local pid status
    pid=$(pgrep -f 'qemu-system-x86_64 -name guest=guest') || { echo "no QEMU"; return 1; }
    status=$(cat "/proc/$pid/status")
    same "$(awk '/^Uid:/ {print $2, $3, $4}' <<<"$status")" "107 107 107" &&
        same "$(awk '/^Cap(Eff|Prm|Bnd):/ {print $2}' <<<"$status" | sort -u)" 0000000000000000 &&
        ! tr '\0' ' ' <"/proc/$pid/cmdline" | grep -o 'accel=kvm\|accel kvm'
}

start_guest() {
    local driver=
    [ "$1" = 1 ] || driver="<driver name='vhost' queues='$1'/>"
    sed -e "s|@WORK@|$WORK|g; s|@TAP@|tap$H|; s|@MAC@|$(pod_mac)|; s|@MTU@|$(in_pod cat "/sys/class/net/pod$H/mtu")|" \
        -e "s|@VCPUS@|$1|; s|@DRIVER@|$driver|" "$here/domain.xml" >"$WORK/home/domain.xml"
    chmod 644 "$WORK/home/domain.xml"
    virsh create "$WORK/home/domain.xml" || { tail -5 "$WORK/home/libvirtd.log"; return 1; }
}

# The N-th time that the guest told something.
told() { [ "$(tr -d '\r' <"$WORK/home/console" | grep -c "^guest: $2\$")" -ge "$1" ]; }
# A boot takes some seconds of a free core; the limit is for a machine under load.
guest_tells() { within ${TRESTLE_GUEST_TIMEOUT:-240} told "$@" || { tail -15 "$WORK/home/console"; return 1; }; }

lease() { awk -v mac="$(pod_mac)" '$2 == mac {print $3}' "$WORK/leases"; }
lan_ping() { ip netns exec lan busybox ping "$@"; }
lan_pings_guest() { lan_ping -c 3 -W 5 "$(lease)"; }
cut_off() { ! lan_ping -c 1 -W 3 "$(lease)"; }
learnt_at_host_end() { bridge fdb show br br-lan | grep "^$(pod_mac) dev $(host_end) " | grep -v permanent; }

tap_is_right() {
    local sys=/sys/class/net/tap$H flags
    same "owner $(in_pod cat $sys/owner) group $(in_pod cat $sys/group)" "owner 107 group 107" || return 1
    flags=$(in_pod cat $sys/tun_flags) || return 1
    # IFF_TAP, IFF_PERSIST; IFF_MULTI_QUEUE exactly when there are several.
    same $((flags & 0x802)) $((0x802)) && same $((flags & 0x100)) $(($1 > 1 ? 0x100 : 0)) || return 1
    same $(($(in_pod cat $sys/flags) & 1)) 1 || { echo "not up"; return 1; }
    same "$(in_pod cat $sys/mtu)" "$(in_pod cat "/sys/class/net/pod$H/mtu")"
}

# LAN's questions to everybody, as bait, and as a proof that the watcher sees frames.
bait() {
    lan_ping -c 1 -W 1 10.77.0.50 >/dev/null 2>&1 || true
    lan_ping -6 -c 2 -W 1 ff02::1%lan0 >/dev/null 2>&1 || true
}
silent() {
    local mac
    mac=$(pod_mac)
    grep -q '^up0 in ' "$WORK/frames.log" || { echo "the watcher saw no frame at all"; return 1; }
    same "$(grep -c "^$(host_end) in \|in $mac >" "$WORK/frames.log")" 0 || { grep "^$(host_end) in \|in $mac >" "$WORK/frames.log"; return 1; }
}
guest_spoke_first() { grep "^$(host_end) in " "$WORK/frames.log" | head -1 | grep "in $(pod_mac) >"; }

nothing_left() {
    same "$(ip -o link show master br-lan | grep -vc ': up0@')" 0 &&
        same "$(in_pod ip -o link | grep -vc ': lo:')" 0 &&
        same "$(find /run/trestle/journal -type f 2>/dev/null)" ""
}

# One pod's life with a guest of so many queues.
scenario() {
    scenario=$1
    local queues=$2 watcher
    queues_note=
    [ "$queues" = 1 ] || queues_note=", \"trestle.network/queues\": \"{\\\"lan\\\": $queues}\""
    ip netns add pod
    in_pod ip link set lo up
    "$WORK/frames" watch >"$WORK/frames.log" &
    watcher=$!
    within 5 grep -q ready "$WORK/frames.log"

    if attached "$queues" && with_libvirt "$queues"; then
        life_of_guest "$queues"
        claim "destroy" virsh destroy guest
        claim "the tap outlives the domain" tap_is_right "$queues"
    fi
    kill "$watcher" && wait "$watcher" 2>/dev/null || true
    [ ! -e "$WORK/home/libvirtd.pid" ] || claim "libvirt ends" stop_libvirt
    claim "DEL bind" cni DEL bind
    claim "DEL wire" cni DEL wire
    claim "nothing left" nothing_left
    claim "DEL again" cni DEL wire
    ip netns del pod
    rm -rf "$WORK/home"
}

attached() {
    must "wire ADD" cni ADD wire || return 1
    must "bind ADD" cni ADD bind || return 1
    claim "MAC is the derived one" same "$(pod_mac)" "$(derived_mac)"
    claim "host end's MAC begins with fe" grep -q '^fe:' "/sys/class/net/$(host_end)/address"
    claim "bind's result names nothing" same "$(tr -d ' \n' <"$WORK/result.bind" | grep -c '"interfaces":\[{\|"ips":\[{')" 0
    claim "tap: owner, queues, MTU, up" tap_is_right "$1"
    # DAD, MLD and router solicitations come within three seconds.
    for _ in 1 2; do bait; done
    sleep 2
    claim "silent before the guest speaks" silent
    claim "CHECK wire" cni CHECK wire
    claim "CHECK bind" cni CHECK bind
}

with_libvirt() {
    must "libvirt starts" start_libvirt || return 1
    claim "still silent" silent
    must "domain starts" start_guest "$1" || return 1
    claim "QEMU is uid 107 without capabilities" only_user_107
}

life_of_guest() {
    must "guest: MTU, MAC, queues" guest_tells 1 "mtu 1500 mac $(derived_mac) queues $1" || return 0
    must "guest is up" guest_tells 1 ready || return 0
    claim "guest pings the LAN" guest_tells 1 "ping 10.77.0.1 ok"
    claim "a whole frame passes" guest_tells 1 "whole frame ok"
    claim "first frame is the guest's" guest_spoke_first
    claim "lease from the LAN" guest_tells 1 "address $(lease)/24"
    claim "LAN pings the guest" lan_pings_guest
    claim "bridge learnt the guest" learnt_at_host_end
    local first
    first=$(lease)
    claim "CHECK wire, guest running" cni CHECK wire
    claim "CHECK bind, guest running" cni CHECK bind

    claim "reset" virsh reset guest
    must "guest is up after the reset" guest_tells 2 ready || return 0
    claim "LAN pings after the reset" lan_pings_guest
    claim "same lease after the reset" same "$(lease)" "$first"
    [ "$1" = 1 ] || return 0
    claim "reboot by the power button" virsh reboot guest --mode acpi
    must "guest saw the button" guest_tells 1 "power button" || return 0
    must "guest is up after the reboot" guest_tells 3 ready || return 0
    claim "LAN pings after the reboot" lan_pings_guest
    claim "guest pinged each time" guest_tells 3 "ping 10.77.0.1 ok"
    claim "link down" virsh domif-setlink guest "tap$H" down
    claim "cut off" cut_off
    claim "link up" virsh domif-setlink guest "tap$H" up
    claim "LAN pings after link up" within 10 lan_pings_guest
}
