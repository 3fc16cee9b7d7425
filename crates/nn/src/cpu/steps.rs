//! The addresses of the values in each step of a sum: a constant distance apart, or listed.

/// Where the vectors of each step of a sum begin.
pub(crate) trait Steps: Copy {
    /// # Safety
    /// `i` must be below the number of steps.
    unsafe fn at(self, i: usize) -> usize;
    /// The same, for loops written by hand.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    fn places(&self) -> Places<'_>;
}

/// The kinds of [`Steps`].
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) enum Places<'a> {
    Every(usize),
    Listed(&'a [usize]),
}

/// Steps a constant distance apart.
#[derive(Clone, Copy)]
pub(crate) struct Every(pub usize);

impl Steps for Every {
    #[inline(always)]
    unsafe fn at(self, i: usize) -> usize {
        i * self.0
    }
    #[inline(always)]
    fn places(&self) -> Places<'_> {
        Places::Every(self.0)
    }
}

impl Steps for &[usize] {
    #[inline(always)]
    unsafe fn at(self, i: usize) -> usize {
        // SAFETY: promised by the caller.
        unsafe { *self.get_unchecked(i) }
    }
    #[inline(always)]
    fn places(&self) -> Places<'_> {
        Places::Listed(self)
    }
}
