//! The delay box: reads packets from a TUN device, keeps each for a while, loses some, and writes the others back.
//!
//! For kernels without `netem`. One delay for all packets, so they stay in order. What is lost depends on chance only; the
//! kernel hands over several segments of a connection at once ([`segments`]), of which each is lost or not.

mod segments;

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::ioctl;

use crate::shell::say;

#[derive(Args)]
pub(crate) struct DelayArgs {
    /// The TUN device, which exists
    device: String,
    /// How long each packet is kept
    #[arg(long)]
    one_way_ms: f64,
    /// How many of a hundred packets are lost
    #[arg(long, default_value_t = 0.0)]
    loss_percent: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Longer than any packet of the device, with the header before it.
const PACKET_MAX: usize = 65536 + segments::HEADER;
/// Packets read before the due ones are written again.
const BATCH: usize = 64;

/// Runs until the device is gone or somebody ends it.
pub(crate) fn run(args: &DelayArgs) -> Result<()> {
    let mut device = open(&args.device)?;
    let keep = Duration::from_secs_f64(args.one_way_ms / 1000.0);
    let mut random = fastrand::Rng::with_seed(args.seed);
    let mut kept: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut packet = vec![0; PACKET_MAX];
    // A network does not wait for the programs that use it. A user who may not ask for that is not root, and cannot get here.
    let _ = rustix::process::nice(-20);
    say("ready");
    loop {
        wait(&device, kept.front().map(|(due, _)| *due))?;
        for _ in 0..BATCH {
            let length = match device.read(&mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("the device cannot be read"),
            };
            let due = Instant::now() + keep;
            let left = segments::survivors(&packet[..length], || {
                random.f64() * 100.0 < args.loss_percent
            });
            kept.extend(left.into_iter().map(|packet| (due, packet)));
        }
        let now = Instant::now();
        while let Some((_, packet)) = kept.pop_front_if(|(due, _)| *due <= now) {
            // The kernel refuses what it cannot route, such as to a host whose cable is cut: lost like on any network.
            let _ = device.write(&packet);
        }
    }
}

/// Until there is a packet to read, or one is due.
fn wait(device: &File, due: Option<Instant>) -> Result<()> {
    let timeout = due
        .map(|due| Timespec::try_from(due.saturating_duration_since(Instant::now())))
        .transpose()
        .context("no time is that far away")?;
    let mut ready = [PollFd::new(device, PollFlags::IN)];
    match poll(&mut ready, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("poll"),
    }
}

/// `struct ifreq` of netdevice(7) as far as TUNSETIFF looks at it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    unused: [u8; 22],
}

/// A TUN device without the four bytes of packet information, with a header for large packets (see the kernel's tuntap.rst).
const IFF_TUN_NO_PI_VNET_HDR: u16 = 0x0001 | 0x1000 | 0x4000;
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<std::ffi::c_int>(b'T', 202);
/// Takes packets without checksums (1) and large ones of TCP over IPv4 (2).
const TUN_F_CSUM_TSO4: usize = 1 | 2;
const TUNSETOFFLOAD: ioctl::Opcode = ioctl::opcode::write::<std::ffi::c_uint>(b'T', 208);

fn open(name: &str) -> Result<File> {
    let mut request = Request {
        name: [0; 16],
        flags: IFF_TUN_NO_PI_VNET_HDR,
        unused: [0; 22],
    };
    let text = CString::new(name)?;
    let bytes = text.as_bytes_with_nul();
    ensure!(
        bytes.len() <= request.name.len(),
        "{name} is too long for a device"
    );
    request.name[..bytes.len()].copy_from_slice(bytes);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/net/tun")
        .context("/dev/net/tun cannot be opened")?;
    #[expect(
        unsafe_code,
        reason = "no safe wrapper; TUNSETIFF reads the request and keeps nothing of it"
    )]
    let attached =
        unsafe { ioctl::ioctl(&device, ioctl::Setter::<TUNSETIFF, Request>::new(request)) };
    attached.with_context(|| format!("{name} is no TUN device"))?;
    #[expect(unsafe_code, reason = "no safe wrapper; TUNSETOFFLOAD takes a number")]
    let large = unsafe {
        ioctl::ioctl(
            &device,
            ioctl::IntegerSetter::<TUNSETOFFLOAD>::new_usize(TUN_F_CSUM_TSO4),
        )
    };
    large.context("the device takes no large packets")?;
    Ok(device)
}
