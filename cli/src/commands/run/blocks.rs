//! Limits of block devices, and of memory what only containers have.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use rbuild_engine::executor::spec::{BlockLimit, BlockLimitKind, Limits};

use crate::error::{Error, Result};
use crate::values::size;

#[derive(Debug, clap::Args)]
pub(crate) struct BlockArgs {
    /// Relative weight of what it reads from and writes to devices, 10 to 1000; 0 is the usual one
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Relative weight with one device
    #[arg(long, value_name = "DEVICE:N")]
    blkio_weight_device: Vec<String>,
    /// Bytes a second that it reads from a device, as in `/dev/sda:10m`
    #[arg(long, value_name = "DEVICE:SIZE")]
    device_read_bps: Vec<String>,
    /// Bytes a second that it writes to a device
    #[arg(long, value_name = "DEVICE:SIZE")]
    device_write_bps: Vec<String>,
    /// How often in a second it reads from a device
    #[arg(long, value_name = "DEVICE:N")]
    device_read_iops: Vec<String>,
    /// How often in a second it writes to a device
    #[arg(long, value_name = "DEVICE:N")]
    device_write_iops: Vec<String>,
    /// How willingly its memory is swapped, 0 to 100; -1 is as the machine's (cgroups of version 1)
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i8).range(-1..=100))]
    memory_swappiness: Option<i8>,
    /// At its memory limit it waits, and nothing of it is killed (cgroups of version 1)
    #[arg(long)]
    oom_kill_disable: bool,
}

impl BlockArgs {
    pub(super) fn add_to(&self, limits: &mut Limits) -> Result<()> {
        limits.no_oom_kill = self.oom_kill_disable;
        limits.memory_swappiness = self.memory_swappiness.and_then(|n| u8::try_from(n).ok());
        limits.blkio_weight = weight("--blkio-weight", self.blkio_weight)?;
        for (flag, texts, kind) in [
            (
                "--blkio-weight-device",
                &self.blkio_weight_device,
                BlockLimitKind::Weight,
            ),
            (
                "--device-read-bps",
                &self.device_read_bps,
                BlockLimitKind::ReadBytes,
            ),
            (
                "--device-write-bps",
                &self.device_write_bps,
                BlockLimitKind::WrittenBytes,
            ),
            (
                "--device-read-iops",
                &self.device_read_iops,
                BlockLimitKind::ReadOperations,
            ),
            (
                "--device-write-iops",
                &self.device_write_iops,
                BlockLimitKind::WriteOperations,
            ),
        ] {
            for text in texts {
                limits.blocks.push(one(flag, text, kind)?);
            }
        }
        Ok(())
    }
}

/// Of all devices; `None` is the usual one.
pub(crate) fn weight(flag: &str, given: Option<u16>) -> Result<Option<u16>> {
    match given {
        None | Some(0) => Ok(None),
        Some(weight) if (10..=1000).contains(&weight) => Ok(Some(weight)),
        Some(weight) => Err(Error::usage(format!(
            "{flag} `{weight}`: weights are from 10 to 1000"
        ))),
    }
}

/// `DEVICE:VALUE`
fn one(flag: &str, text: &str, kind: BlockLimitKind) -> Result<BlockLimit> {
    let bad = |reason: &str| Error::usage(format!("{flag} `{text}`: {reason}"));
    let (device, value) = text
        .rsplit_once(':')
        .ok_or_else(|| bad("a colon and a value follow the device"))?;
    let device = PathBuf::from(device);
    let found = std::fs::metadata(&device).map_err(|error| Error::io("look up", &device, error))?;
    if !found.file_type().is_block_device() {
        return Err(bad(&format!("`{}` is no block device", device.display())));
    }
    let value = match kind {
        BlockLimitKind::Weight => {
            let number = value.parse().map_err(|_| bad("the weight is no number"))?;
            weight(flag, Some(number))?
                .ok_or_else(|| bad("weights are from 10 to 1000"))?
                .into()
        }
        BlockLimitKind::ReadBytes | BlockLimitKind::WrittenBytes => size(flag, value)?,
        BlockLimitKind::ReadOperations | BlockLimitKind::WriteOperations => {
            value.parse().map_err(|_| bad("it is a whole number"))?
        }
    };
    if value == 0 {
        return Err(bad("with 0 nothing would ever be done"));
    }
    Ok(BlockLimit {
        device,
        kind,
        value,
    })
}
