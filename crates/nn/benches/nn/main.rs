//! Speed of `crates/nn/src`, one file per file there. `cargo bench -p vidgen-nn` measures every case with criterion; with `--serve`
//! the program runs single cases as told on its standard input, which `tests/reference/bench_ops.py` uses to take turns with
//! PyTorch.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod act;
mod conv;
mod linear;
mod norm;
mod rope;
mod sdpa;

use candle_core::{Device, Tensor};
use criterion::Criterion;
use serde_json::Value;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// One measurable call.
type Run = Box<dyn FnMut()>;

/// What is measured: a name of `make` and its sizes.
struct Case {
    op: &'static str,
    sizes: &'static [(&'static str, usize)],
}

/// The sizes of a case.
struct Sizes(Value);

impl Sizes {
    fn get(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap_or_else(|| panic!("size {name} is missing")) as usize
    }
}

fn make(op: &str, sizes: &Sizes) -> Option<Run> {
    [act::make, conv::make, linear::make, norm::make, rope::make, sdpa::make]
        .into_iter()
        .find_map(|make| make(op, sizes))
}

fn random(dims: &[usize]) -> Tensor {
    let mut state = 1_u64;
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Seconds that all threads of this process have computed.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the struct it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Keeps all threads busy until the system has given each a CPU of its own, as they have in a run. A thread that is woken for
/// less than a millisecond may stay on its waker's for long.
fn awake() {
    let start = Instant::now();
    rayon::broadcast(|_| {
        while start.elapsed() < Duration::from_millis(15) {
            std::hint::spin_loop();
        }
    });
}

/// Lines `{"op": .., size: ..}` prepare a case; `run` runs it once and prints the seconds by the clock and of the CPU.
fn serve() {
    let mut current: Option<Run> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        if let Some(times) = line.strip_prefix("run ") {
            // one after the other, as PyTorch's: threads that wait for the next call are still awake when it comes
            let run = current.as_mut().expect("a case comes first");
            awake();
            let (mut elapsed, mut used) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..times.parse().unwrap() {
                let (start, before) = (Instant::now(), processor_time());
                run();
                elapsed = elapsed.min(start.elapsed().as_secs_f64());
                used = used.min(processor_time() - before);
            }
            println!("{elapsed} {used}");
        } else {
            let sizes = Sizes(serde_json::from_str(&line).unwrap());
            let op = sizes.0["op"].as_str().unwrap().to_string();
            drop(current.take()); // its memory first
            current = Some(make(&op, &sizes).unwrap_or_else(|| panic!("no case {op}")));
            println!("ready");
        }
        std::io::stdout().flush().unwrap();
    }
}

fn main() {
    vidgen_nn::keep_memory(); // as the program does
    if std::env::args().any(|arg| arg == "--serve") {
        return rayon::scope(|_| serve()); // as the program does its work: on a thread of the pool
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for case in [act::CASES, conv::CASES, linear::CASES, norm::CASES, rope::CASES, sdpa::CASES].into_iter().flatten() {
        let sizes = Sizes(case.sizes.iter().map(|(name, size)| (name.to_string(), Value::from(*size))).collect());
        let label: Vec<String> = case.sizes.iter().map(|(name, size)| format!("{name}{size}")).collect();
        let mut run = make(case.op, &sizes).unwrap();
        criterion.bench_function(&format!("{}/{}", case.op, label.join(" ")), |bencher| bencher.iter(&mut run));
    }
    criterion.final_summary();
}
