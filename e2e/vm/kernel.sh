# Sourced by e2e/vm/run and e2e/guest/run: Debian's stock cloud kernel and initramfs images for it.
#
# Knows packages, modules and cpio; nothing of what is tested inside. Nothing is installed on the machine: the package
# is unpacked into a cache outside the tree, and once it is there no network is needed.

TRESTLE_CACHE=${TRESTLE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/trestle-tests}

die() { echo "${0##*/}: $*" >&2; exit 1; }

need() {
    local tool missing=()
    for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ ${#missing[@]} -eq 0 ] || die "not found: ${missing[*]}"
}

# Prints the directory that has boot/vmlinuz-VERSION and lib/modules/VERSION.
kernel_tree() {
    local tree=$TRESTLE_CACHE/kernel
    if [ ! -e "$tree/complete" ]; then
        need apt-get apt-cache dpkg-deb busybox >&2
        mkdir -p "$TRESTLE_CACHE"
        local work package
        work=$(mktemp -d "$TRESTLE_CACHE/kernel.XXXXXX")
        apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt-get update -qq >&2
        # The named package is empty and depends on the real one, whose name changes with each release.
        package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p' | head -1)
        [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64"
        # An old package list names a version that the archive has dropped.
        (cd "$work" && { apt-get download -q "$package" || { apt-get update -qq && apt-get download -q "$package"; }; }) >&2 ||
            die "cannot download $package"
        dpkg-deb -x "$work"/*.deb "$work" && rm "$work"/*.deb
        # Debian 13 has modules under /usr/lib.
        [ -d "$work/lib/modules" ] || ln -s usr/lib "$work/lib"
        busybox depmod -b "$work" "$(kernel_version "$work")"
        touch "$work/complete"
        chmod 755 "$work"
        # Two runs at once may both have downloaded it: the first one's stays.
        mv -T "$work" "$tree" 2>/dev/null || rm -rf "$work"
    fi
    [ -e "$tree/complete" ] || die "no kernel in $tree"
    echo "$tree"
}

kernel_version() { ls "$1"/lib/modules | head -1; }

# image_start DIR: the bare root of an initramfs with busybox.
image_start() {
    local root=$1
    mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,etc,var/lib,lib/modules}
    ln -sfn ../run "$root/var/run"
    ldd "$(command -v busybox)" >/dev/null 2>&1 && die "busybox is not static: install busybox-static"
    cp "$(command -v busybox)" "$root/bin/busybox"
    local applet
    for applet in $(busybox --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
}

# image_program DIR PROGRAM...: programs with their shared libraries, under the same paths for the libraries.
image_program() {
    local root=$1 program library
    shift
    for program in "$@"; do
        rm -f "$root/bin/${program##*/}" # an applet of busybox is a link
        cp -L "$(command -v "$program")" "$root/bin/${program##*/}"
        for library in $(ldd "$(command -v "$program")" 2>/dev/null | grep -o '/[^ ]*'); do
            [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
        done
    done
}

# image_modules DIR KERNEL_TREE MODULE...: modules and what they depend on; /etc/modules has them in an order that loads.
image_modules() {
    local root=$1 tree=$2 module file
    shift 2
    local modules
    modules=$tree/lib/modules/$(kernel_version "$tree")
    local -A seen=()
    for module in "$@"; do
        ! grep -q "/$module\.ko$" "$modules/modules.builtin" || continue
        file=$(grep -oE "^([^:]*/)?$module\.ko[^:/]*:" "$modules/modules.dep" | head -1) || true
        [ -n "$file" ] || die "kernel $(kernel_version "$tree") has no module $module"
        image_module "${file%:}"
    done
}

# One module after those that it needs. modules.dep lists these too, but busybox' depmod in no useful order.
image_module() {
    [ -z "${seen[$1]:-}" ] || return 0
    seen[$1]=1
    local dependency name=${1##*/}
    for dependency in $(sed -n "s|^$1: *||p" "$modules/modules.dep"); do image_module "$dependency"; done
    case $name in
    *.xz) name=${name%.xz} && xz -dc "$modules/$1" >"$root/lib/modules/$name" ;;
    *) cp "$modules/$1" "$root/lib/modules/$name" ;;
    esac
    echo "$name" >>"$root/etc/modules"
}

# image_pack DIR FILE: not compressed, since unpacking under emulation costs more than reading.
image_pack() { (cd "$1" && find . | LC_ALL=C sort | busybox cpio -o -H newc 2>/dev/null) >"$2"; }
