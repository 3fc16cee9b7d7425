//! The cost of a job before anything is loaded: arithmetic, seconds at the speed of this machine, and the devices there are.

mod calibrate;
mod devices;
mod forecast;
pub mod work;

pub use calibrate::calibrate;
pub use devices::{DeviceInfo, check as check_device, devices};
pub use forecast::{CacheRow, Forecast, RelayRow, outline};
