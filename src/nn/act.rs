//! Activations.

use candle_core::{Result, Tensor};

/// GELU in its tanh form, `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`; any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

/// `x * sigmoid(x)`; any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}
