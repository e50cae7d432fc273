//! A TCP proxy that lets only so many bytes a second through, and can be cut.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A proxy on 127.0.0.1 in front of another address, limited in both directions together.
pub struct Throttle {
    addr: String,
    state: Arc<State>,
}

struct State {
    target: String,
    bytes_per_second: u64,
    /// When the line is free again.
    free_at: Mutex<Instant>,
    passed: AtomicU64,
    cut: AtomicBool,
}

impl Throttle {
    /// Starts a proxy to `target` (`ADDR:PORT`), which need not listen yet.
    pub fn start(target: impl Into<String>, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for a proxy");
        let addr = listener.local_addr().expect("a bound port").to_string();
        let state = Arc::new(State {
            target: target.into(),
            bytes_per_second,
            free_at: Mutex::new(Instant::now()),
            passed: AtomicU64::new(0),
            cut: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                shared.connect(&near);
            }
        });
        Self { addr, state }
    }

    /// Where it listens.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Bytes that went through, both directions together.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::Relaxed)
    }

    /// Breaks all connections and takes no more.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }
}

impl State {
    fn connect(self: &Arc<Self>, near: &TcpStream) {
        let Ok(far) = TcpStream::connect(&self.target) else {
            return;
        };
        for (from, to) in [(near, &far), (&far, near)] {
            if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                let state = Arc::clone(self);
                // When either side breaks off, so does the other: that is all a proxy can say.
                thread::spawn(move || state.copy(from, to).ok());
            }
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        from.set_read_timeout(Some(Duration::from_millis(100)))?;
        while !self.cut.load(Ordering::Relaxed) {
            let got = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            self.passed.fetch_add(got as u64, Ordering::Relaxed);
            let takes = Duration::from_micros(got as u64 * 1_000_000 / self.bytes_per_second);
            let due = {
                let mut free_at = self.free_at.lock().expect("no thread panicked");
                *free_at = (*free_at).max(Instant::now()) + takes;
                *free_at
            };
            thread::sleep(due.saturating_duration_since(Instant::now()));
            to.write_all(&buffer[..got])?;
        }
        from.shutdown(Shutdown::Both)?;
        to.shutdown(Shutdown::Both)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.cut();
    }
}
