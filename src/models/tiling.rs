//! Spatial tiles: a frame too large to work on whole is cut into overlapping tiles, whose results are blended.
//!
//! After `tiled_decode` and `tiled_encode` of diffusers' autoencoders, with equal results wherever the reference's
//! tiles lie on the latent grid. Deliberately different: the reference rounds the step between tiles and the
//! kept part of a tile separately, so that tile sizes that do not fit its overlap factors give frames of a wrong size;
//! here both follow from the step in latent cells. Tiles are walked inside each chunk of time, one cache per tile, so that
//! frames leave in order.

use crate::models::autoencoder::TileOptions;
use candle_core::{Device, Result, Tensor, bail};

/// The tiles along one axis, in latent cells.
#[derive(Debug, Clone)]
struct Axis {
    /// Start and length of each tile.
    tiles: Vec<(usize, usize)>,
    /// Cells from one tile to the next, which is also what is kept of a tile.
    step: usize,
    /// Cells over which a tile is blended with the one before it.
    blend: usize,
}

impl Axis {
    fn new(name: &str, size: usize, sample: usize, overlap: f64, ratio: usize) -> Result<Self> {
        let tile = sample / ratio;
        if tile == 0 {
            bail!("vae tile {name} of {sample} pixels is smaller than one latent cell ({ratio} pixels)")
        }
        if !(0.0..1.0).contains(&overlap) {
            bail!("vae tile overlap in {name} is {overlap}; it must lie between 0 and 1, 1 excluded")
        }
        let step = (tile as f64 * (1.0 - overlap)) as usize;
        if step == 0 {
            bail!("vae tile {name} of {sample} pixels leaves no room between overlaps of {overlap}; take larger tiles")
        }
        let tiles = (0..size).step_by(step).map(|start| (start, tile.min(size - start))).collect();
        Ok(Self { tiles, step, blend: tile - step })
    }
}

/// The tiles of a frame, row by row.
#[derive(Debug, Clone)]
pub struct Grid {
    rows: Axis,
    columns: Axis,
}

impl Grid {
    /// The grid for latents of `height` by `width` cells of `ratio` pixels; `None` if one tile holds them.
    pub fn new(options: &TileOptions, ratio: usize, height: usize, width: usize) -> Result<Option<Self>> {
        let rows = Axis::new("height", height, options.sample_height, options.overlap_factor_h, ratio)?;
        let columns = Axis::new("width", width, options.sample_width, options.overlap_factor_w, ratio)?;
        // the reference's condition; a frame that is one tile high can still be several tiles wide
        let tiled = height > options.sample_height / ratio || width > options.sample_width / ratio;
        Ok(tiled.then_some(Self { rows, columns }))
    }

    /// The number of tiles.
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.rows.tiles.len() * self.columns.tiles.len()
    }

    /// Height and width of each tile in cells.
    pub fn sizes(&self) -> impl Iterator<Item = (usize, usize)> {
        let columns = &self.columns.tiles;
        self.rows.tiles.iter().flat_map(|&(_, height)| columns.iter().map(move |&(_, width)| (height, width)))
    }

    /// The tiles of `x` `[.., H, W]`, whose cells are `unit` wide.
    pub fn cut(&self, x: &Tensor, unit: usize) -> Result<Vec<Tensor>> {
        let mut tiles = Vec::with_capacity(self.len());
        for &(top, height) in &self.rows.tiles {
            for &(left, width) in &self.columns.tiles {
                let tile = x.narrow(2, top * unit, height * unit)?.narrow(3, left * unit, width * unit)?;
                tiles.push(tile.contiguous()?);
            }
        }
        Ok(tiles)
    }

    /// One tensor `[.., H, W]` of the tiles' results, whose cells are `unit` wide. Each tile is blended into the one above it
    /// and then into the one on its left, both as they are after their own blending.
    pub fn join(&self, tiles: &[Tensor], unit: usize) -> Result<Tensor> {
        let columns = self.columns.tiles.len();
        let mut blended: Vec<Tensor> = Vec::with_capacity(tiles.len());
        for (index, tile) in tiles.iter().enumerate() {
            let mut tile = tile.clone();
            if index >= columns {
                tile = blend(&blended[index - columns], &tile, 2, self.rows.blend * unit)?;
            }
            if index % columns > 0 {
                tile = blend(&blended[index - 1], &tile, 3, self.columns.blend * unit)?;
            }
            blended.push(tile);
        }
        let mut rows = Vec::with_capacity(self.rows.tiles.len());
        for row in blended.chunks(columns) {
            let row: Vec<Tensor> = row
                .iter()
                .map(|tile| keep(&keep(tile, 2, self.rows.step * unit)?, 3, self.columns.step * unit))
                .collect::<Result<_>>()?;
            rows.push(Tensor::cat(&row, 3)?);
        }
        Tensor::cat(&rows, 2)
    }
}

fn keep(tile: &Tensor, axis: usize, size: usize) -> Result<Tensor> {
    tile.narrow(axis, 0, size.min(tile.dim(axis)?))
}

/// `tile` with its first `extent` rows (axis 2) or columns (axis 3) faded in over the last ones of `before`.
fn blend(before: &Tensor, tile: &Tensor, axis: usize, extent: usize) -> Result<Tensor> {
    let (ends, size) = (before.dim(axis)?, tile.dim(axis)?);
    let extent = extent.min(ends).min(size);
    if extent == 0 {
        return Ok(tile.clone());
    }
    let mut shape = [1, 1, 1, 1];
    shape[axis] = extent;
    let ramp = |weight: fn(f64) -> f64| {
        let weights: Vec<f32> = (0..extent).map(|at| weight(at as f64 / extent as f64) as f32).collect();
        Tensor::from_vec(weights, &shape, &Device::Cpu)?.to_device(tile.device())?.to_dtype(tile.dtype())
    };
    let fade_out = before.narrow(axis, ends - extent, extent)?.broadcast_mul(&ramp(|at| 1.0 - at)?)?;
    let fade_in = tile.narrow(axis, 0, extent)?.broadcast_mul(&ramp(|at| at)?)?;
    let mixed = (fade_out + fade_in)?;
    if extent == size {
        return Ok(mixed);
    }
    Tensor::cat(&[&mixed, &tile.narrow(axis, extent, size - extent)?], axis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(height: usize, width: usize, overlap: f64) -> TileOptions {
        TileOptions { sample_height: height, sample_width: width, overlap_factor_h: overlap, overlap_factor_w: overlap }
    }

    #[test]
    fn defaults_cut_the_published_size_like_the_reference() {
        let tile = TileOptions {
            sample_height: 240,
            sample_width: 360,
            overlap_factor_h: 1.0 / 6.0,
            overlap_factor_w: 1.0 / 5.0,
        };
        let grid = Grid::new(&tile, 8, 60, 90).unwrap().unwrap();
        assert_eq!(grid.rows.tiles, [(0, 30), (25, 30), (50, 10)]);
        assert_eq!(grid.columns.tiles, [(0, 45), (36, 45), (72, 18)]);
        assert_eq!((grid.rows.blend, grid.columns.blend), (5, 9));
        assert!(Grid::new(&tile, 8, 30, 45).unwrap().is_none());
        assert!(Grid::new(&tile, 8, 30, 46).unwrap().is_some());
    }

    #[test]
    fn tiles_that_agree_join_to_what_was_cut() {
        for (height, width, overlap) in [(32, 40, 0.25), (24, 40, 1.0 / 6.0), (16, 24, 0.0), (40, 16, 0.49)] {
            for (h, w) in [(7, 9), (6, 10), (5, 11), (4, 6), (12, 2)] {
                let Some(grid) = Grid::new(&options(height, width, overlap), 8, h, w).unwrap() else { continue };
                let x = Tensor::randn(0f32, 1.0, (2, 3, h * 4, w * 4), &Device::Cpu).unwrap();
                let tiles = grid.cut(&x, 4).unwrap();
                assert_eq!(tiles.len(), grid.len());
                let y = grid.join(&tiles, 4).unwrap();
                let distance = (x - y).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(distance < 1e-6, "{height}x{width} on {h}x{w}: {distance}");
            }
        }
    }

    #[test]
    fn a_tile_fades_in_over_the_end_of_the_one_before() {
        let grid = Grid::new(&options(8, 4, 0.5), 1, 4, 5).unwrap().unwrap();
        assert_eq!((grid.columns.step, grid.columns.blend), (2, 2));
        let tiles: Vec<Tensor> = [(4, 1f32), (3, 3.0), (1, 5.0)]
            .iter()
            .map(|&(width, value)| Tensor::full(value, (1, 1, 4, width), &Device::Cpu).unwrap())
            .collect();
        let row = grid.join(&tiles, 1).unwrap().narrow(2, 0, 1).unwrap().flatten_all().unwrap();
        // the last tile is one column wide: it is faded over that column only, whose weight is zero
        assert_eq!(row.to_vec1::<f32>().unwrap(), [1.0, 1.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn impossible_tiles_are_refused() {
        for (tile, named) in [
            (options(7, 40, 0.2), "smaller than one latent cell"),
            (options(32, 40, 1.0), "overlap in height is 1"),
            (options(32, 40, -0.1), "overlap in height is -0.1"),
            (options(32, 40, f64::NAN), "overlap in height is NaN"),
            (options(8, 40, 0.2), "leaves no room"),
        ] {
            let error = Grid::new(&tile, 8, 7, 9).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
