//! Vectors of f32 whose width is chosen at run time: AVX-512, AVX2 with FMA, or what the compiler makes of plain code.
//!
//! A kernel is a type with one generic method, [`Kernel::run`]; [`dispatch`] compiles it once per instruction set and picks
//! the widest one the CPU has. A value of a [`Simd`] type exists only inside `dispatch`, so it proves that its
//! instructions may be executed; that makes all arithmetic safe, and only raw loads and stores are not.

use super::steps::Steps;
use std::mem::MaybeUninit;

/// The instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isa {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The sets that this CPU has, the best one last.
    pub(crate) fn available() -> &'static [Isa] {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
                return &[Isa::Plain, Isa::Avx2, Isa::Avx512];
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return &[Isa::Plain, Isa::Avx2];
            }
        }
        &[Isa::Plain]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Isa::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
        }
    }

    pub(crate) fn best() -> Isa {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Isa::available().last().unwrap_or(&Isa::Plain))
    }
}

/// Arithmetic on one vector of f32.
pub(crate) trait Simd: Copy {
    /// Numbers in a vector; at most [`MAX_LANES`].
    const LANES: usize;
    /// Whether there are 32 registers, which decides the shape of register tiles.
    const WIDE: bool;
    type V: Copy;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` numbers must be readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` numbers must be writable at `to`.
    unsafe fn store(self, v: Self::V, to: *mut f32);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger one; `b` if either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` if either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in -126..=127.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;

    /// Exchanges the even and the odd number of each pair.
    fn swap_pairs(self, a: Self::V) -> Self::V;

    /// Reads `LANES / 2` numbers, each into two neighbouring lanes.
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_twice(self, from: *const f32) -> Self::V;
    /// `a * b - c` in even lanes, `a * b + c` in odd ones.
    fn fma_alternating(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// `tile::multiply` into `sum` by hand, for a shape of tile that the compiler does badly; false where there is none.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn multiply<const M: usize, const N: usize>(
        self,
        _k: usize,
        _a: (*const f32, usize, usize),
        _b: (*const f32, impl Steps),
        _sum: &mut [[Self::V; N]; M],
    ) -> bool {
        false
    }

    /// The same for `tile::multiply_places`.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn multiply_places<const M: usize, const N: usize>(
        self,
        _a: (*const f32, &[usize]),
        _b: *const f32,
        _sum: &mut [[Self::V; N]; M],
    ) -> bool {
        false
    }

    /// The same for `tile::multiply_pairs`.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn multiply_pairs<const M: usize, const N: usize>(
        self,
        _a: (*const f32, usize, usize),
        _b: (*const f32, &[usize]),
        _sum: &mut [[Self::V; N]; M],
    ) -> bool {
        false
    }

    /// Reads up to `LANES / 2` numbers, each into two neighbouring lanes; missing ones are zero.
    #[inline(always)]
    fn get_twice(self, from: &[f32]) -> Self::V {
        if from.len() >= Self::LANES / 2 {
            // SAFETY: the length was just checked.
            unsafe { self.load_twice(from.as_ptr()) }
        } else {
            let mut whole = [0.0; MAX_LANES];
            whole[..from.len()].copy_from_slice(from);
            // SAFETY: `whole` holds MAX_LANES >= LANES numbers.
            unsafe { self.load_twice(whole.as_ptr()) }
        }
    }

    /// Reads up to `LANES` numbers; missing ones are zero.
    #[inline(always)]
    fn get(self, from: &[f32]) -> Self::V {
        if from.len() >= Self::LANES {
            // SAFETY: the length was just checked.
            unsafe { self.load(from.as_ptr()) }
        } else {
            let mut whole = [0.0; MAX_LANES];
            whole[..from.len()].copy_from_slice(from);
            // SAFETY: `whole` holds MAX_LANES >= LANES numbers.
            unsafe { self.load(whole.as_ptr()) }
        }
    }

    /// Writes the first `to.len()` numbers of the vector, at most `LANES`; afterwards these are initialised.
    #[inline(always)]
    fn put(self, v: Self::V, to: &mut [MaybeUninit<f32>]) {
        if to.len() >= Self::LANES {
            // SAFETY: the length was just checked.
            unsafe { self.store(v, to.as_mut_ptr().cast()) }
        } else {
            let whole = self.to_array(v);
            for (to, value) in to.iter_mut().zip(whole) {
                to.write(value);
            }
        }
    }

    /// Writes a vector to a slice of at least `LANES` numbers.
    #[inline(always)]
    fn set(self, v: Self::V, to: &mut [f32]) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: the length was just checked.
        unsafe { self.store(v, to.as_mut_ptr()) }
    }

    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; MAX_LANES] {
        let mut whole = [0.0; MAX_LANES];
        // SAFETY: `whole` holds MAX_LANES >= LANES numbers.
        unsafe { self.store(v, whole.as_mut_ptr()) };
        whole
    }

    /// The numbers of vectors in order.
    #[inline(always)]
    fn numbers<const N: usize>(self, v: &[Self::V; N]) -> &[f32] {
        const { assert!(size_of::<Self::V>() == 4 * Self::LANES) };
        // SAFETY: a vector is LANES numbers without padding.
        unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), N * Self::LANES) }
    }

    /// Sum of the numbers of a vector.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut whole = self.to_array(v);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                whole[i] += whole[i + half];
            }
            half /= 2;
        }
        whole[0]
    }

    /// `e^x`, to about one unit in the last place between -87.3 and 88.3, held constant outside; NaN stays NaN.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.max(self.splat(-87.336_54), self.min(self.splat(88.376_2), x));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first of which has few enough bits for `n` times it to be exact.
        let r = self.fma(n, self.splat(-0.693_359_4), x);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = self.fma(p, r, self.splat(c));
        }
        let p = self.fma(p, self.mul(r, r), self.add(r, self.splat(1.0)));
        self.scale2(p, n)
    }

    /// `2^x`, like [`Simd::exp`] between -126 and 127.
    #[inline(always)]
    fn exp2(self, x: Self::V) -> Self::V {
        let x = self.max(self.splat(-126.0), self.min(self.splat(127.0), x));
        let n = self.round(x);
        let r = self.sub(x, n);
        let mut p = self.splat(1.535_336_2e-4);
        for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
            p = self.fma(p, r, self.splat(c));
        }
        self.scale2(p, n)
    }

    /// `x / (1 + e^-z)`: SiLU for `z = x`, the tanh form of GELU for `z = 2 sqrt(2/pi) (x + 0.044715 x^3)`.
    #[inline(always)]
    fn gated(self, x: Self::V, z: Self::V) -> Self::V {
        let e = self.exp(self.sub(self.splat(0.0), z));
        self.div(x, self.add(self.splat(1.0), e))
    }
}

/// The widest vector of any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// A computation that can be compiled for every instruction set.
pub(crate) trait Kernel {
    type Out;
    /// Must be `#[inline(always)]`, as everything that it calls with a vector, or the instructions become function calls. So
    /// there are no closures here, `array::from_fn` and `map` included: they are functions of their own.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Numbers in a vector of the instructions that [`dispatch`] takes.
pub(crate) fn lanes() -> usize {
    struct Lanes;
    impl Kernel for Lanes {
        type Out = usize;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> usize {
            S::LANES
        }
    }
    dispatch(Lanes)
}

/// Runs the kernel with the best instructions of this CPU.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Out {
    dispatch_on(chosen(), kernel)
}

fn chosen() -> Isa {
    #[cfg(test)]
    if let Some(isa) = FORCED.get() {
        return isa;
    }
    Isa::best()
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// Runs `f` once on every instruction set of this CPU, in a pool of one thread.
#[cfg(test)]
pub(crate) fn on_each_isa(f: impl Fn(Isa) + Sync) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for &isa in Isa::available() {
        pool.install(|| {
            FORCED.set(Some(isa));
            f(isa);
            FORCED.set(None);
        });
    }
}

/// Runs the kernel with the instructions `isa`, which must come from [`Isa::available`].
fn dispatch_on<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    match isa {
        Isa::Plain => kernel.run(plain::Plain(())),
        // SAFETY: `Isa::available` lists a set only after the CPU has confirmed it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::run_avx512(kernel) },
    }
}

mod plain {
    use super::Simd;

    /// Four numbers, which every 64-bit CPU has registers for.
    #[derive(Clone, Copy)]
    pub struct Plain(pub(super) ());

    #[inline(always)]
    fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
        [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
    }

    impl Simd for Plain {
        const LANES: usize = 4;
        const WIDE: bool = cfg!(target_arch = "aarch64");
        type V = [f32; 4];

        #[inline(always)]
        fn splat(self, x: f32) -> [f32; 4] {
            [x; 4]
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> [f32; 4] {
            // SAFETY: promised by the caller.
            unsafe { from.cast::<[f32; 4]>().read_unaligned() }
        }
        #[inline(always)]
        unsafe fn store(self, v: [f32; 4], to: *mut f32) {
            // SAFETY: promised by the caller.
            unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
        }
        #[inline(always)]
        fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            zip(a, b, |a, b| a + b)
        }
        #[inline(always)]
        fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            zip(a, b, |a, b| a - b)
        }
        #[inline(always)]
        fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            zip(a, b, |a, b| a * b)
        }
        #[inline(always)]
        fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            zip(a, b, |a, b| a / b)
        }
        #[inline(always)]
        fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
            // A fused multiply-add would be a library call where the CPU lacks the instruction.
            #[cfg(target_arch = "aarch64")]
            return std::array::from_fn(|i| a[i].mul_add(b[i], c[i]));
            #[cfg(not(target_arch = "aarch64"))]
            self.add(self.mul(a, b), c)
        }
        #[inline(always)]
        fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            zip(a, b, |a, b| if a > b { a } else { b })
        }
        #[inline(always)]
        fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
            zip(a, b, |a, b| if a < b { a } else { b })
        }
        #[inline(always)]
        fn round(self, a: [f32; 4]) -> [f32; 4] {
            // Adding and taking away 1.5 * 2^23 rounds without a library call; only `exp` uses it, on small numbers.
            a.map(|a| (a + 12_582_912.0) - 12_582_912.0)
        }
        #[inline(always)]
        fn scale2(self, a: [f32; 4], n: [f32; 4]) -> [f32; 4] {
            zip(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
        }
        #[inline(always)]
        fn swap_pairs(self, a: [f32; 4]) -> [f32; 4] {
            [a[1], a[0], a[3], a[2]]
        }
        #[inline(always)]
        unsafe fn load_twice(self, from: *const f32) -> [f32; 4] {
            // SAFETY: promised by the caller.
            let [a, b] = unsafe { from.cast::<[f32; 2]>().read_unaligned() };
            [a, a, b, b]
        }
        #[inline(always)]
        fn fma_alternating(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
            self.fma(a, b, [-c[0], c[1], -c[2], c[3]])
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "simd_x86.rs"]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a [f32]);
    impl Kernel for Exp<'_> {
        type Out = Vec<(f32, f32)>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<(f32, f32)> {
            let one = |x| (s.to_array(s.exp(s.splat(x)))[S::LANES - 1], s.to_array(s.exp2(s.splat(x)))[0]);
            self.0.iter().map(|&x| one(x)).collect()
        }
    }

    #[test]
    fn exp_is_that_of_the_library() {
        let x: Vec<f32> =
            (-8700..=8800).map(|i| i as f32 * 0.01).chain([0.0, -0.0, 1e-20, f32::MIN_POSITIVE]).collect();
        for &isa in Isa::available() {
            for (&x, (y, z)) in x.iter().zip(dispatch_on(isa, Exp(&x))) {
                let want = f64::from(x).exp();
                assert!((f64::from(y) - want).abs() <= 3e-7 * want, "{isa:?}: exp({x}) = {y}, not {want}");
                let want = f64::from(x).exp2();
                assert!((f64::from(z) - want).abs() <= 3e-7 * want, "{isa:?}: exp2({x}) = {z}, not {want}");
            }
            let (e, two): (Vec<_>, Vec<_>) =
                dispatch_on(isa, Exp(&[f32::NEG_INFINITY, -1e30, f32::INFINITY, f32::NAN])).into_iter().unzip();
            assert!(e[0] < 1.3e-38 && e[1] < 1.3e-38 && e[2] > 2e38 && e[3].is_nan(), "{isa:?}: {e:?}");
            assert!(two[0] < 1.3e-38 && two[1] < 1.3e-38 && two[2] > 1e38 && two[3].is_nan(), "{isa:?}: {two:?}");
        }
    }

    struct Small(usize);
    impl Kernel for Small {
        type Out = (Vec<f32>, f32, f32);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Out {
            let from: Vec<f32> = (1..=self.0).map(|i| i as f32).collect();
            let v = s.get(&from);
            let mut out = vec![MaybeUninit::new(-1.0); self.0.min(S::LANES)];
            s.put(s.swap_pairs(s.swap_pairs(s.round(v))), &mut out);
            // SAFETY: every element was initialised above.
            let out = out.iter().map(|x| unsafe { x.assume_init() }).collect();
            (out, s.sum(v), s.to_array(s.swap_pairs(v))[0])
        }
    }

    #[test]
    fn parts_of_vectors() {
        for &isa in Isa::available() {
            for len in 2..20 {
                let (copy, sum, second) = dispatch_on(isa, Small(len));
                let want: Vec<f32> = (1..=copy.len()).map(|i| i as f32).collect();
                assert_eq!(copy, want, "{isa:?} {len}");
                assert_eq!(sum, want.iter().sum::<f32>(), "{isa:?} {len}");
                assert_eq!(second, 2.0);
            }
        }
    }
}
