//! A real Linux guest: QEMU with software emulation (`-accel tcg`), a distribution's kernel, busybox.
//!
//! Finds what it needs on this machine and says exactly what to install where something is missing; nothing is
//! downloaded here. Knows the tap's name, the guest's MAC and address.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnetwork::Ipv4Network;

use super::initramfs::{Archive, Modules, is_static};
use crate::types::{IfName, Mac, Mtu};

/// How this machine's architecture is emulated.
struct Machine {
    qemu: &'static str,
    package: &'static str,
    debian: &'static str,
    options: &'static [&'static str],
    console: &'static str,
}

fn machine() -> anyhow::Result<Machine> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Machine {
            qemu: "qemu-system-x86_64",
            package: "qemu-system-x86",
            debian: "amd64",
            options: &[],
            console: "ttyS0",
        }),
        "aarch64" => Ok(Machine {
            qemu: "qemu-system-aarch64",
            package: "qemu-system-arm",
            debian: "arm64",
            options: &["-machine", "virt", "-cpu", "max"],
            console: "ttyAMA0",
        }),
        other => bail!("--guest qemu is not there for {other}: use --guest stack"),
    }
}

/// Everything that was found.
#[derive(Debug)]
pub struct Kit {
    qemu: PathBuf,
    busybox: Vec<u8>,
    kernel: PathBuf,
    modules: PathBuf,
}

/// The first process of the guest. It never ends: the kernel would panic.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
exec </dev/CONSOLE >/dev/CONSOLE 2>&1
$b stty -echo -onlcr
for m in /modules/*; do $b insmod $m || echo "lab: failed module $m"; done
$b ip link set lo up
$b ip address add ADDRESS dev eth0
$b ip link set eth0 up || echo "lab: failed no network card"
echo "lab: ready"
while :; do
    read -r word to || $b sleep 1
    [ "$word" = ping ] || continue
    time=
    for try in 1 2 3 4 5; do
        time=$($b ping -c 1 -W 1 "$to" 2>&1 | $b sed -n 's/.*time=\([0-9.]*\).*/\1/p')
        [ -n "$time" ] && break
    done
    if [ -n "$time" ]; then echo "lab: pong $to $time"; else echo "lab: lost $to"; fi
done
"#;

/// Where kernels may lie besides `/`, in the same layout (`boot`, `lib/modules`).
pub fn cache(env: &dyn Fn(&str) -> Option<OsString>, root: bool) -> PathBuf {
    let set = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("TRESTLE_LAB_CACHE") {
        return path;
    }
    let home = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|h| h.join(".cache")));
    let base = if root { None } else { home() };
    base.unwrap_or_else(|| "/var/cache".into()).join("trestle-lab")
}

impl Kit {
    /// Looks for all of it, and names all that is missing at once.
    pub fn find(cache: &Path, search: &[PathBuf]) -> anyhow::Result<Self> {
        let machine = machine()?;
        let mut missing = Vec::new();
        let qemu = search.iter().map(|dir| dir.join(machine.qemu)).find(|p| p.is_file());
        if qemu.is_none() {
            let package = machine.package;
            missing.push(format!("{}: apt-get install --no-install-recommends {package}", machine.qemu));
        }
        let busybox = search.iter().filter_map(|dir| std::fs::read(dir.join("busybox")).ok()).find(|b| is_static(b));
        if busybox.is_none() {
            missing.push("a busybox that is linked statically: apt-get install busybox-static".into());
        }
        let kernel = [cache, Path::new("/")].iter().find_map(|root| kernel_in(root));
        if kernel.is_none() {
            missing.push(kernel_advice(cache, machine.debian));
        }
        match (qemu, busybox, kernel) {
            (Some(qemu), Some(busybox), Some((kernel, modules))) => Ok(Self { qemu, busybox, kernel, modules }),
            _ => bail!("--guest qemu needs\n  {}", missing.join("\n  ")),
        }
    }

    /// Writes kernel and root file system where the guest's uid can read them, and gives QEMU's command.
    pub fn prepare(
        &self,
        dir: &Path,
        tap: &IfName,
        mac: Mac,
        mtu: Mtu,
        ip: Ipv4Network,
    ) -> anyhow::Result<Vec<String>> {
        let machine = machine()?;
        let kernel = dir.join("kernel");
        let initrd = dir.join("initrd");
        std::fs::copy(&self.kernel, &kernel).with_context(|| format!("cannot copy {}", self.kernel.display()))?;
        readable(&kernel)?;
        std::fs::write(&initrd, self.root(ip, machine.console)?)?;
        readable(&initrd)?;
        let fixed = ["-accel", "tcg", "-m", "192", "-smp", "1", "-nodefaults", "-no-user-config", "-no-reboot"];
        let mut argv = vec![self.qemu.display().to_string()];
        argv.extend(machine.options.iter().chain(&fixed).map(|s| (*s).to_owned()));
        argv.extend(["-display", "none", "-monitor", "none", "-serial", "stdio"].map(str::to_owned));
        argv.extend(["-kernel".into(), kernel.display().to_string(), "-initrd".into(), initrd.display().to_string()]);
        argv.extend(["-append".into(), format!("console={} quiet panic=-1", machine.console)]);
        argv.extend(["-netdev".into(), format!("tap,id=lan,ifname={tap},script=no,downscript=no,vhost=off")]);
        argv.extend(["-device".into(), format!("virtio-net-pci,netdev=lan,mac={mac},host_mtu={mtu},romfile=")]);
        Ok(argv)
    }

    fn root(&self, address: Ipv4Network, console: &str) -> anyhow::Result<Vec<u8>> {
        let mut archive = Archive::new();
        for directory in ["bin", "dev", "proc", "modules"] {
            archive.directory(directory);
        }
        archive.character_device("dev/console", 5, 1);
        archive.file("bin/busybox", true, &self.busybox);
        let modules = Modules::read(&self.modules)?.in_order(&["virtio_pci", "virtio_net"])?;
        for (n, (name, content)) in modules.iter().enumerate() {
            archive.file(&format!("modules/{n:02}-{name}.ko"), false, content);
        }
        let init = INIT.replace("CONSOLE", console).replace("ADDRESS", &address.to_string());
        archive.file("init", true, init.as_bytes());
        Ok(archive.finish())
    }
}

fn readable(path: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

/// A kernel under this root whose modules are there too: a cloud kernel first (small, quick to start), then the newest.
fn kernel_in(root: &Path) -> Option<(PathBuf, PathBuf)> {
    let entries = std::fs::read_dir(root.join("boot")).ok()?;
    let found = entries.filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let version = name.strip_prefix("vmlinuz-")?.to_owned();
        let modules = ["lib/modules", "usr/lib/modules"].iter().map(|m| root.join(m).join(&version));
        let modules = modules.into_iter().find(|m| m.join("kernel").is_dir())?;
        // Some distributions let only root read it.
        std::fs::File::open(entry.path()).ok()?;
        Some((version.contains("cloud"), age_key(&version), entry.path(), modules))
    });
    found.max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1))).map(|(_, _, kernel, modules)| (kernel, modules))
}

/// The numbers of a version, so that 6.10 is newer than 6.9.
fn age_key(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

fn kernel_advice(cache: &Path, debian: &str) -> String {
    let cache = cache.display();
    format!(
        "a Linux kernel with its modules in / or in {cache}: mkdir -p {cache} && cd {cache} && apt-get download \
         $(apt-cache depends linux-image-cloud-{debian} | sed -n 's/.*Depends: //p' | head -n 1) && dpkg-deb -x \
         linux-image-*.deb . && rm linux-image-*.deb"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(root: &Path, version: &str) {
        std::fs::create_dir_all(root.join("boot")).unwrap();
        std::fs::create_dir_all(root.join(format!("lib/modules/{version}/kernel"))).unwrap();
        std::fs::write(root.join(format!("boot/vmlinuz-{version}")), "").unwrap();
    }

    #[test]
    fn a_cloud_kernel_first_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kernel_in(dir.path()), None);
        kernel(dir.path(), "6.9.1-amd64");
        kernel(dir.path(), "6.10.1-amd64");
        std::fs::write(dir.path().join("boot/vmlinuz-7.0-without-modules"), "").unwrap();
        let chosen = || kernel_in(dir.path()).unwrap().0.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(chosen(), "vmlinuz-6.10.1-amd64");
        kernel(dir.path(), "6.1.0-40-cloud-amd64");
        assert_eq!(chosen(), "vmlinuz-6.1.0-40-cloud-amd64");
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let text = Kit::find(dir.path(), &[dir.path().into()]).unwrap_err().to_string();
        assert!(text.contains("apt-get install --no-install-recommends qemu-system-"), "{text}");
        assert!(text.contains("apt-get install busybox-static"), "{text}");
    }

    #[test]
    fn the_cache_follows_the_environment() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |key: &str| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v))
        };
        assert_eq!(cache(&env(&[]), true), Path::new("/var/cache/trestle-lab"));
        assert_eq!(cache(&env(&[("HOME", "/home/ann")]), true), Path::new("/var/cache/trestle-lab"));
        assert_eq!(cache(&env(&[("HOME", "/home/ann")]), false), Path::new("/home/ann/.cache/trestle-lab"));
        assert_eq!(cache(&env(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), false), Path::new("/c/trestle-lab"));
        assert_eq!(cache(&env(&[("TRESTLE_LAB_CACHE", "/x")]), true), Path::new("/x"));
    }

    #[test]
    fn the_script_has_no_place_left_open() {
        let text = INIT.replace("CONSOLE", "ttyS0").replace("ADDRESS", "192.0.2.77/24");
        assert!(!text.chars().collect::<String>().contains("CONSOLE") && text.contains("add 192.0.2.77/24 dev eth0"));
    }
}
