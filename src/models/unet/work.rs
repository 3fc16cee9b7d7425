//! What a UNet takes: its attention layers by size, multiply-adds and memory of a row.

use super::{HEADS_IN, UNetConfig};
use crate::models::architecture::{Kinds, LayerShape, RowMemory, RowWork, WIDE, WindowRows};

/// Sides of a level: each halves them, rounding up.
fn sides(level: usize, (height, width): (usize, usize)) -> (usize, usize) {
    let halved = |side: usize| (0..level).fold(side, |side, _| side.div_ceil(2));
    (halved(height), halved(width))
}

/// The levels of the attention layers, in the order in which they run: down, in the middle, up.
fn levels(unet: &UNetConfig) -> Vec<usize> {
    let (count, layers) = (unet.levels(), unet.layers_per_block);
    let down = (0..count).filter(|&level| unet.attends_down(level)).flat_map(|level| vec![level; layers]);
    let up = (0..count).filter(|&block| unet.attends_up(block));
    let up = up.flat_map(|block| vec![count - 1 - block; layers + 1]);
    down.chain([count - 1]).chain(up).collect()
}

/// The attention layers, of both kinds, on so many latent frames of `cells`.
pub fn layers(unet: &UNetConfig, frames: usize, cells: (usize, usize)) -> Vec<LayerShape> {
    let shape = |level: usize| {
        let (height, width) = sides(level, cells);
        LayerShape {
            channels: unet.block_out_channels[level],
            heads: unet.attention_head_dim.at(level),
            grid: (frames, height, width),
        }
    };
    levels(unet).into_iter().map(shape).collect()
}

/// The attention layers in time, two a place, the first place before all others.
pub fn temporal_layers(unet: &UNetConfig, frames: usize, cells: (usize, usize)) -> Vec<LayerShape> {
    let Some(width) = unet.temporal_head_dim else { return Vec::new() };
    let first = LayerShape { channels: HEADS_IN * width, heads: HEADS_IN, grid: (frames, cells.0, cells.1) };
    let others = layers(unet, frames, cells);
    std::iter::once(first).chain(others).flat_map(|layer| [layer; 2]).collect()
}

/// Multiply-adds of one row: 3x3 convolutions of the residual blocks, the products around attention (20 D^2 for a token: in,
/// out, four projections, two of the queries and the output on the text, twelve of the gated layer), attention on itself
/// and on a text of so many tokens.
pub fn row(unet: &UNetConfig, text: usize, frames: usize, cells: (usize, usize)) -> RowWork {
    part_of_row(unet, true, text, frames, cells)
}

/// The same of a step in which only the last layer of the way up is computed, and what stands before and behind it.
pub fn row_last(unet: &UNetConfig, text: usize, frames: usize, cells: (usize, usize)) -> RowWork {
    let (mut linear, mut attention) = (Kinds::default(), 0.0);
    let mut add = |width: usize, wide: usize, work: f64| {
        if width >= wide { linear.wide += work } else { linear.small += work }
    };
    let (dim, before) = (unet.block_out_channels[0], unet.deep_channels() + unet.block_out_channels[0]);
    let positions = (frames * cells.0 * cells.1) as f64;
    let convolutions = [(unet.in_channels, dim), (before, dim), (dim, dim), (dim, unet.out_channels)];
    for (from, to) in convolutions {
        add(from.max(to), WIDE.1, 9.0 * (from * to) as f64 * positions);
    }
    let mut count = 0;
    if unet.attends_up(unet.levels() - 1) {
        let (tokens, width) = ((cells.0 * cells.1) as f64, dim as f64);
        add(dim, WIDE.0, 20.0 * positions * width * width);
        attention += 2.0 * positions * (tokens + text as f64) * width;
        count += 1;
    }
    if unet.is_video() {
        let (inside, tokens) = (unet.temporal_head_dim.unwrap_or(0) * HEADS_IN, positions);
        add(dim, WIDE.1, 12.0 * (dim * dim) as f64 * tokens);
        for width in [inside, dim] {
            add(width, WIDE.0, 2.0 * tokens * (10.0 * (width * width) as f64 + (width * dim) as f64));
            attention += 4.0 * tokens * (frames * width) as f64;
        }
    }
    RowWork { linear, attention, layers: count }
}

/// The same of the way down and the middle.
pub fn row_down(unet: &UNetConfig, text: usize, frames: usize, cells: (usize, usize)) -> RowWork {
    part_of_row(unet, false, text, frames, cells)
}

/// The layers of the way down and the middle.
pub fn layers_down(unet: &UNetConfig, frames: usize, cells: (usize, usize)) -> Vec<LayerShape> {
    let mut layers = layers(unet, frames, cells);
    layers.truncate(unet.layers_down());
    layers
}

fn part_of_row(unet: &UNetConfig, up: bool, text: usize, frames: usize, cells: (usize, usize)) -> RowWork {
    let mut linear = Kinds::default();
    let mut add = |width: usize, wide: usize, work: f64| {
        if width >= wide { linear.wide += work } else { linear.small += work }
    };
    let area = |level: usize| {
        let (height, width) = sides(level, cells);
        (frames * height * width) as f64
    };
    let temporal = if unet.is_video() { 12.0 } else { 0.0 };
    let mut convolution = |from: usize, to: usize, level: usize| {
        add(from.max(to), WIDE.1, 9.0 * (from * to) as f64 * area(level));
    };
    let (channels, count) = (&unet.block_out_channels, unet.levels());
    let mut in_time = 0.0;
    let mut resnet = |from: usize, to: usize, level: usize| {
        convolution(from, to, level);
        convolution(to, to, level);
        in_time += temporal * (to * to) as f64 * area(level);
    };
    let mut before = channels[0];
    for (level, &own) in channels.iter().enumerate() {
        for layer in 0..unet.layers_per_block {
            resnet(if layer == 0 { before } else { own }, own, level);
        }
        before = own;
    }
    (0..2).for_each(|_| resnet(before, before, count - 1));
    let mut skips = unet.skips();
    for level in (0..count).rev().filter(|_| up) {
        for _ in 0..=unet.layers_per_block {
            resnet(before + skips.pop().unwrap_or(0), channels[level], level);
            before = channels[level];
        }
    }
    for level in 1..count {
        convolution(channels[level - 1], channels[level - 1], level); // halving
        if up {
            convolution(channels[level], channels[level], level - 1); // enlarging
        }
    }
    convolution(unet.in_channels, channels[0], 0);
    if up {
        convolution(channels[0], unet.out_channels, 0);
    }
    add(channels[count - 1], WIDE.1, in_time); // nearly all of it where there are many channels
    let mut attention = 0.0;
    let within = if up { layers(unet, frames, cells) } else { layers_down(unet, frames, cells) };
    let count = within.len();
    for LayerShape { channels, grid: (frames, height, width), .. } in within {
        let (tokens, dim) = ((height * width) as f64, channels as f64);
        add(channels, WIDE.0, 20.0 * frames as f64 * tokens * dim * dim);
        attention += 2.0 * frames as f64 * tokens * (tokens + text as f64) * dim;
    }
    for (index, layer) in temporal_layers(unet, frames, cells).into_iter().enumerate() {
        let LayerShape { channels: dim, grid: (frames, height, width), .. } = layer;
        let tokens = (frames * height * width) as f64;
        let outside = if index < 2 { channels[0] } else { dim };
        add(dim, WIDE.0, tokens * (10.0 * (dim * dim) as f64 + (dim * outside) as f64));
        attention += 2.0 * tokens * (frames * dim) as f64;
    }
    RowWork { linear, attention, layers: count }
}

/// What a row takes more where its frames see each other in `count` stretches of `size` frames, as in [`row`] not: projections of
/// more frames, each of which sees fewer.
pub fn stretches(unet: &UNetConfig, frames: usize, (count, size): (usize, usize), cells: (usize, usize)) -> RowWork {
    let (mut linear, mut attention) = (Kinds::default(), 0.0);
    let [frames, seen, size] = [frames, count * size, size].map(|count| count as f64);
    for LayerShape { channels, grid: (_, height, width), .. } in temporal_layers(unet, 1, cells) {
        let (positions, dim) = ((height * width) as f64, channels as f64);
        let work = 4.0 * dim * dim * positions * (seen - frames);
        if channels >= WIDE.0 {
            linear.wide += work
        } else {
            linear.small += work
        }
        attention += 2.0 * positions * dim * (seen * size - frames * frames);
    }
    RowWork { linear, attention, layers: 0 }
}

/// Memory of a window's rows: what each keeps for the way up, and what the row at work holds beside it: of attention the queries,
/// keys, values and both halves of the gated layer, of a residual block on the way up its joined input and three maps.
pub fn memory(unet: &UNetConfig, rows: WindowRows, element: u64, score_budget: u64) -> RowMemory {
    let frames = rows.frames as u64;
    let area = |level: usize| {
        let (height, width) = sides(level, rows.cells);
        (height * width) as u64
    };
    // the first is at the finest level, and what halves a level stands at the next
    let layers = unet.layers_per_block;
    let kept = unet.skips().into_iter().enumerate().map(|(index, channels)| {
        let level = index / (layers + 1);
        channels as u64 * area(level.min(unet.levels() - 1))
    });
    let state = frames * element * kept.sum::<u64>();
    let widest = |level: usize| unet.block_out_channels[level.min(unet.levels() - 1)] as u64 * area(level);
    let inside = unet.temporal_head_dim.map_or(0, |width| (HEADS_IN * width) as u64 * area(0));
    let largest = (0..unet.levels()).map(widest).max().unwrap_or(0).max(inside);
    let activations = rows.halves as u64 * state + 14 * frames * element * largest;
    let tokens = layers_of_most(unet, rows);
    RowMemory { state, activations, scores: (tokens * 4 * frames).min(score_budget) }
}

/// Scores of the largest attention layer of a frame, over its heads; those in time are for each position as many as frames.
fn layers_of_most(unet: &UNetConfig, rows: WindowRows) -> u64 {
    let scores = |layer: &LayerShape| layer.heads as u64 * ((layer.grid.1 * layer.grid.2) as u64).pow(2);
    let in_time = |layer: &LayerShape| (layer.heads * layer.grid.1 * layer.grid.2 * rows.frames) as u64;
    let in_time = temporal_layers(unet, 1, rows.cells).iter().map(in_time).max().unwrap_or(0);
    layers(unet, 1, rows.cells).iter().map(scores).max().unwrap_or(0).max(in_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::unet::UNet3DConfig;

    #[test]
    fn layers_run_down_through_the_middle_and_up() {
        let unet = UNetConfig::default();
        assert_eq!(levels(&unet), [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]);
        assert_eq!(levels(&unet).len(), unet.layers());
        assert_eq!([0, 1, 2, 3].map(|level| sides(level, (9, 7))), [(9, 7), (5, 4), (3, 2), (2, 1)]);
    }

    #[test]
    fn layers_in_time_are_counted() {
        let unet = UNet3DConfig::default().planar("unet").unwrap();
        let layers = temporal_layers(&unet, 16, (32, 32));
        assert_eq!(layers.len(), unet.temporal_layers());
        assert_eq!(layers[0], LayerShape { channels: 512, heads: 8, grid: (16, 32, 32) });
        assert_eq!((layers[2].channels, layers[14].channels, layers[15].grid), (320, 1280, (16, 4, 4)));
        // one product of each weight for each position that it sees: what a pass over one frame of one cell takes
        let RowWork { linear, .. } = row(&unet, 1, 1, (8, 8));
        let RowWork { linear: plain, .. } = row(&UNetConfig { temporal_head_dim: None, ..unet }, 1, 1, (8, 8));
        let share = (linear.small + linear.wide) / (plain.small + plain.wide);
        assert!((1.5..2.2).contains(&share), "{share}");
        // 13 windows of 16 frames are 208 instead of 64
        let unet = UNet3DConfig::default().planar("unet").unwrap();
        let more = stretches(&unet, 64, (13, 16), (32, 32));
        let whole = row(&unet, 77, 64, (32, 32)).linear;
        let share = (more.linear.small + more.linear.wide) / (whole.small + whole.wide);
        assert!((0.1..0.5).contains(&share) && more.attention < 0.0, "{share}");
        assert_eq!(stretches(&unet, 16, (1, 16), (32, 32)).attention, 0.0);
    }

    #[test]
    fn a_row_keeps_what_the_way_up_takes() {
        let rows = WindowRows { frames: 2, cells: (64, 64), halves: 2 };
        let memory = memory(&UNetConfig::default(), rows, 4, 1 << 30);
        // three maps of 320 channels at 64, 320 and two of 640 at 32, 640 and two of 1280 at 16, three of 1280 at 8
        let values = 3 * 320 * 4096 + (320 + 2 * 640) * 1024 + (640 + 2 * 1280) * 256 + 3 * 1280 * 64;
        assert_eq!(memory.state, 2 * 4 * values);
        assert_eq!(memory.scores, 8 * 4096 * 4096 * 4 * 2);
    }
}
