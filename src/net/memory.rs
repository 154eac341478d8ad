//! Gives the kernel back what this process has freed. It knows the C library's allocator, and not what it was used for.

use nix::libc;

/// glibc's arenas shrink from their end alone: one block that was taken late keeps all that was freed before it. A program
/// that stays, and reads a long list now and then, would keep the room of the longest one for good.
pub fn give_back() {
    // SAFETY: takes the allocator's own locks, and touches no block that is in use.
    #[expect(unsafe_code, reason = "malloc_trim has no safe form")]
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_mib() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        (text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096) >> 20
    }

    #[test]
    fn what_lies_below_a_block_in_use_goes_too() {
        let before = resident_mib();
        let mut blocks: Vec<Vec<u8>> = (0..100_000).map(|_| vec![1; 1000]).collect();
        let last = blocks.pop().unwrap();
        drop(blocks);
        assert!(resident_mib() > before + 50, "the allocator keeps it: else there is nothing to test");
        give_back();
        // (Other tests of this process take and free memory, too.)
        assert!(resident_mib() < before + 50, "{} MiB, {before} before", resident_mib());
        assert_eq!(last.len(), 1000);
    }
}
