//! The allocator of the process: small blocks from mimalloc, large ones from the system.
//!
//! A lookup allocates and frees many small blocks, at which mimalloc is faster by a tenth. A query reads pages of megabytes on
//! one thread and frees them on another: of these mimalloc keeps twice what is in use, and the system's allocator, which all
//! threads share, gives a freed page to whoever asks next.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Blocks of so many bytes and more come from the system.
const LARGE_BYTES: usize = 32 << 10;

/// Chooses by size alone, which whoever frees a block states again.
pub(crate) struct BySize;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE_BYTES
}

// SAFETY: each block is given back to the allocator that it came from, because its size decides both; the two keep the
// contract themselves. A block that grows or shrinks over the limit is a new one, filled before the old one is freed.
#[expect(unsafe_code, reason = "an allocator cannot be written without; each call passes on what its caller vouches for")]
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) { unsafe { System.alloc(layout) } } else { unsafe { MiMalloc.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) { unsafe { System.alloc_zeroed(layout) } } else { unsafe { MiMalloc.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(layout) { unsafe { System.dealloc(block, layout) } } else { unsafe { MiMalloc.dealloc(block, layout) } }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (is_large(layout), size >= LARGE_BYTES) {
            (true, true) => unsafe { System.realloc(block, layout, size) },
            (false, false) => unsafe { MiMalloc.realloc(block, layout, size) },
            _ => {
                // SAFETY: the caller vouches that the alignment is one and the size not too large for it.
                let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
                if !moved.is_null() {
                    unsafe {
                        std::ptr::copy_nonoverlapping(block, moved, size.min(layout.size()));
                        self.dealloc(block, layout);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_what_is_in_them_over_the_limit_and_back() {
        let mut block: Vec<u8> = Vec::with_capacity(LARGE_BYTES - 1);
        let next = |number: usize| u8::try_from(number % 251).unwrap();
        for size in [LARGE_BYTES - 1, LARGE_BYTES, 3 * LARGE_BYTES] {
            block.reserve_exact(size - block.len());
            block.extend((block.len()..size).map(next));
        }
        for size in [2 * LARGE_BYTES, LARGE_BYTES, LARGE_BYTES - 1, 1] {
            block.truncate(size);
            block.shrink_to_fit();
            assert!(block.iter().copied().eq((0..size).map(next)), "{size}");
        }
    }

    #[test]
    fn cleared_blocks_are_zero_and_aligned_ones_aligned() {
        for size in [64, LARGE_BYTES - 1, LARGE_BYTES, 4 * LARGE_BYTES] {
            assert!(vec![0_u8; size].iter().all(|byte| *byte == 0));
            #[repr(align(4096))]
            struct Page(#[expect(dead_code, reason = "only where it lies matters")] [u8; 4096]);
            let pages: Vec<Page> = (0..size.div_ceil(4096)).map(|_| Page([1; 4096])).collect();
            assert_eq!(pages.as_ptr() as usize % 4096, 0);
        }
    }
}
