//! The root file system of the lab's Linux guest: a cpio archive (`newc`, Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`) with busybox, a few kernel modules and one script.
//!
//! Knows archives, ELF as far as two questions need it, and the order of modules. What the files are for, it does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// An archive in the making.
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), inode: 1 }
    }

    pub fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, (0, 0), &[]);
    }

    pub fn file(&mut self, path: &str, executable: bool, content: &[u8]) {
        self.entry(path, if executable { 0o100_755 } else { 0o100_644 }, (0, 0), content);
    }

    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, 0o020_600, (major, minor), &[]);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let name = path.len() as u32 + 1;
        // inode, mode, uid, gid, links, time, size, the file system's device, its own device, length of the name, sum.
        let head = [self.inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name, 0];
        self.inode += 1;
        self.bytes.extend(b"070701");
        for number in head {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The modules of a kernel by their names, and the order in which some of them must be loaded.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: String,
}

impl Modules {
    /// `directory` is `/lib/modules/VERSION`. `modules.dep` is not asked: a package that was only unpacked has none.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)
            .with_context(|| format!("cannot read the modules in {}", directory.display()))?;
        let builtin = std::fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
        Ok(Self { files, builtin })
    }

    /// The wanted modules and all that they need, each after what it needs: (name, content).
    pub fn in_order(&self, wanted: &[&str]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        for name in wanted {
            self.add(name, &mut order, 0)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>, depth: usize) -> anyhow::Result<()> {
        let name = name.replace('-', "_");
        if order.iter().any(|(known, _)| *known == name) || self.is_builtin(&name) {
            return Ok(());
        }
        ensure!(depth < 16, "the kernel's modules need each other in a circle at {name}");
        let Some(path) = self.files.get(&name) else { bail!("the kernel has no module {name}") };
        let content = unpacked(path)?;
        for need in needs(&content) {
            self.add(&need, order, depth + 1)?;
        }
        order.push((name, content));
        Ok(())
    }

    fn is_builtin(&self, name: &str) -> bool {
        let stem = |line: &str| line.rsplit('/').next().map(|f| f.trim_end_matches(".ko").replace('-', "_"));
        self.builtin.lines().any(|line| stem(line).as_deref() == Some(name))
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some((stem, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(stem.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

/// A module's content; distributions pack them in several ways, and the programs that pack are there with them.
fn unpacked(path: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    #[expect(clippy::disallowed_methods, reason = "what a module was packed with")]
    let mut command = Command::new(program);
    let output = command.arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("cannot run {program}, which packed {}", path.display()))?;
    ensure!(output.status.success(), "{program} cannot unpack {}", path.display());
    Ok(output.stdout)
}

/// `depends=` of the section `.modinfo`: NUL-terminated texts, one of them a list with commas.
fn needs(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|w| w == key).map(|p| p + key.len()) else {
        return Vec::new();
    };
    let list = module[start..].split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list).split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// Whether a 64-bit little-endian ELF program runs without a dynamic loader: it has no segment of type `PT_INTERP`.
pub fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    let interpreted = || -> Option<bool> {
        let (table, size, count) = (number(0x20, 8)? as usize, number(0x36, 2)? as usize, number(0x38, 2)? as usize);
        let kinds: Option<Vec<u64>> = (0..count).map(|i| number(table.checked_add(i * size)?, 4)).collect();
        Some(kinds?.contains(&u64::from(PT_INTERP)))
    };
    program.starts_with(b"\x7fELF\x02\x01") && interpreted() == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_reads() {
        let mut archive = Archive::new();
        archive.directory("bin");
        archive.file("bin/one", true, b"12345");
        archive.character_device("console", 5, 1);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"07070100000001000041ed0000000000000000000000010000000000000000"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("bin/one\0") && text.contains("12345") && text.ends_with("TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel/drivers/net");
        std::fs::create_dir_all(&kernel).unwrap();
        let write = |name: &str, info: &str| std::fs::write(kernel.join(name), info).unwrap();
        write("virtio_net.ko", "x\0license=GPL\0depends=net_failover,virtio\0name=virtio_net\0");
        write("net-failover.ko", "x\0depends=failover\0");
        write("failover.ko", "x\0depends=\0");
        std::fs::write(dir.path().join("modules.builtin"), "kernel/drivers/virtio/virtio.ko\n").unwrap();
        let modules = Modules::read(dir.path()).unwrap();
        let order: Vec<_> = modules.in_order(&["virtio_net"]).unwrap().into_iter().map(|(n, _)| n).collect();
        assert_eq!(order, ["failover", "net_failover", "virtio_net"]);
        assert_eq!(modules.in_order(&["nope"]).unwrap_err().to_string(), "the kernel has no module nope");
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ko");
        std::fs::write(&path, "content").unwrap();
        #[expect(clippy::disallowed_methods, reason = "a packed module to begin with")]
        let mut gzip = Command::new("gzip");
        assert!(gzip.arg(&path).status().unwrap().success());
        assert_eq!(unpacked(&dir.path().join("a.ko.gz")).unwrap(), b"content");
    }

    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(is_static(&own), "the tests are linked as the program is");
        assert!(!is_static(&std::fs::read("/bin/ls").unwrap()));
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(b"\x7fELF\x02\x01"));
    }
}
