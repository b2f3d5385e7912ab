//! Where floats are computed: the CPU, or a GPU for which the tensor library was built.

use super::{FloatError, Result};
use candle_core::{Device, Error};
use std::fmt;
use std::str::FromStr;

/// The name of a device; of several GPUs, which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU: `cpu`.
    #[default]
    Cpu,
    /// A GPU of NVIDIA's: `cuda`, which is the first, or `cuda:N`.
    Cuda(usize),
    /// Apple's GPU: `metal`.
    Metal,
}

impl FromStr for DeviceName {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let expected = "cpu, cuda, cuda:N (the GPU of this number, from 0) or metal is expected";
        match (text, text.strip_prefix("cuda:")) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            ("metal", _) => Ok(Self::Metal),
            (_, Some(number)) => number.parse().map(Self::Cuda).map_err(|_| expected),
            _ => Err(expected),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// [`FloatError::Device`]: it is not there, or this program was built without it.
    pub fn open(self) -> Result<Device> {
        let opened = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Device::new_cuda(number),
            Self::Metal => Device::new_metal(0),
        };
        opened.map_err(|why| {
            let why = match why {
                Error::NotCompiledWithCudaSupport => built_without("CUDA", "cuda"),
                Error::NotCompiledWithMetalSupport => built_without("Metal", "metal"),
                why => format!("there is none that works ({})", why.to_string().lines().next().unwrap_or_default()),
            };
            FloatError::Device { name: self, why }
        })
    }
}

fn built_without(what: &str, feature: &str) -> String {
    format!("this mote was built without {what} (cargo install --path quantize --features {feature})")
}

/// The kind of a device. Floats of one kind can differ from those of another in their last bits.
pub(crate) fn kind(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}

#[cfg(test)]
mod tests {
    use super::DeviceName;

    #[test]
    fn devices_by_name() {
        let named = ["cpu", "cuda", "cuda:0", "cuda:3", "metal"].map(str::parse);
        let expected =
            [DeviceName::Cpu, DeviceName::Cuda(0), DeviceName::Cuda(0), DeviceName::Cuda(3), DeviceName::Metal];
        assert_eq!(named, expected.map(Ok));
        for wrong in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda3", "metal:0"] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
        assert!(DeviceName::Cpu.open().unwrap().is_cpu());
    }
}
