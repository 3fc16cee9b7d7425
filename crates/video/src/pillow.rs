//! Resampling as Pillow does it, bit for bit: filters widen when they shrink, weights are whole numbers of 2^-22, and values are
//! rounded to bytes after each direction.

/// What weighs old pixels by their distance from a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Box,
    /// a = -1/2.
    Bicubic,
    /// Of three lobes.
    Lanczos,
}

impl Filter {
    /// In old pixels at scale 1.
    fn reach(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Box => f64::from(u8::from(-0.5 < x && x <= 0.5)),
            Self::Bicubic => bicubic(x),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// First old pixel and weights of each new pixel, in units of 2^-BITS.
fn coefficients(old: usize, new: usize, filter: Filter) -> Vec<(usize, Vec<i64>)> {
    let scale = old as f64 / new as f64;
    let widened = scale.max(1.0);
    let reach = filter.reach() * widened;
    (0..new)
        .map(|index| {
            let centre = (index as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).min(old);
            let weights: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - centre + 0.5) / widened)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (weight / sum * f64::from(1u32 << BITS)).round() as i64;
            (first, weights.iter().map(fixed).collect())
        })
        .collect()
}

const BITS: u32 = 22;

/// Pixels of red, green and blue, row by row, in another size; sizes are width and height.
pub fn resize(data: &[u8], old: (usize, usize), new: (usize, usize), filter: Filter) -> Vec<u8> {
    let byte = |sum: i64| ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8;
    let mut rows = Vec::with_capacity(new.0 * old.1 * 3);
    let columns = coefficients(old.0, new.0, filter);
    for row in data.chunks_exact(old.0 * 3) {
        for (first, weights) in &columns {
            for channel in 0..3 {
                let pixels = row[first * 3 + channel..].iter().step_by(3);
                rows.push(byte(pixels.zip(weights).map(|(&pixel, weight)| i64::from(pixel) * weight).sum()));
            }
        }
    }
    let stride = new.0 * 3;
    let mut out = Vec::with_capacity(new.1 * stride);
    for (first, weights) in coefficients(old.1, new.1, filter) {
        for x in 0..stride {
            let pixels = rows[first * stride + x..].iter().step_by(stride);
            out.push(byte(pixels.zip(&weights).map(|(&pixel, weight)| i64::from(pixel) * weight).sum()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pillow 13.0.0 on `[(7 i) % 256]` of 5 by 4 pixels: `Image.resize(size, LANCZOS)`, every seventh byte.
    #[test]
    fn lanczos_is_pillows() {
        let data: Vec<u8> = (0..5 * 4 * 3).map(|index| (index * 7 % 256) as u8).collect();
        for (size, want) in LANCZOS {
            let got: Vec<u8> = resize(&data, (5, 4), size, Filter::Lanczos).into_iter().step_by(7).collect();
            assert_eq!(got, want, "{size:?}");
        }
        assert_eq!(resize(&data, (5, 4), (5, 4), Filter::Lanczos), data);
    }

    const LANCZOS: [((usize, usize), &[u8]); 3] = [
        (
            (8, 7),
            &[
                0, 21, 44, 68, 32, 88, 124, 99, 130, 166, 198, 229, 198, 117, 208, 248, 18, 52, 134, 67, 109, 45, 109,
                152,
            ],
        ),
        ((3, 2), &[83, 120, 101]),
        ((5, 9), &[0, 28, 77, 50, 109, 80, 164, 143, 180, 215, 100, 228, 19, 162, 35, 80, 90, 139, 75, 171]),
    ];
}
