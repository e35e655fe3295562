//! HTTP/2 pings: whether a client that is silent while its requests are in work is still there.
//!
//! TCP finds a host that is gone. A program that hangs, or a proxy that keeps the connection of a client that is gone,
//! still has a host that answers TCP; only HTTP/2 tells. A connection without a request in work is closed when idle, so
//! it is not pinged: a pong would count as activity.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

use super::activity::Activity;

/// Silence of a client with requests in work after which it is pinged; a quarter of `server.connection_timeout_secs` if
/// that is less.
const PING_AFTER: Duration = Duration::from_secs(30);
const IDLE_PARTS: u32 = 4;

/// Time for a client to answer, or that quarter if it is less, but at least the second bound: the client's threads may
/// be busy.
const PING_PATIENCE: Duration = Duration::from_secs(20);
const PING_PATIENCE_MIN: Duration = Duration::from_secs(2);

/// Pings of one connection.
pub(super) struct Pings {
    /// `None` if h2 offers no pings.
    ping: Option<PingPong>,
    after: Duration,
    patience: Duration,
    /// Time of the ping, and bytes received by then; `None` once more have come.
    asked: Option<(Instant, u64)>,
    /// A ping is outstanding: h2 sends one at a time.
    is_out: bool,
}

impl Pings {
    /// For a connection that is closed after `idle`.
    pub(super) fn new(ping: Option<PingPong>, idle: Duration) -> Self {
        let after = PING_AFTER.min(idle / IDLE_PARTS);
        let patience = PING_PATIENCE.min(idle / IDLE_PARTS).max(PING_PATIENCE_MIN);
        Self { ping, after, patience, asked: None, is_out: false }
    }

    /// Time until [`Self::look`] is due.
    pub(super) fn left(&self, activity: &Activity) -> Duration {
        match self.asked {
            Some((asked, _)) => self.patience.saturating_sub(unanswered(asked, activity)),
            None if activity.is_in_work() => self.after.saturating_sub(activity.silent()),
            None => self.after,
        }
    }

    /// Sends a ping if it is time; true if the client has not answered.
    pub(super) fn look(&mut self, activity: &Activity) -> bool {
        let Some(ping) = &mut self.ping else { return false };
        if self.is_out && ping.poll_pong(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.is_out = false;
        }
        if let Some((asked, received)) = self.asked {
            // Any byte from the client shows that it is there.
            if activity.received() == received {
                return unanswered(asked, activity) >= self.patience;
            }
            self.asked = None;
        }
        if activity.is_in_work() && activity.silent() >= self.after {
            // An unanswered ping stands for the next one.
            self.is_out = self.is_out || ping.send_ping(Ping::opaque()).is_ok();
            self.asked = self.is_out.then(|| (Instant::now(), activity.received()));
        }
        false
    }
}

/// Time for which a pinged client has given no sign. A ping waits behind the data being sent: while the client's side
/// takes bytes of a large answer, the ping may not have reached it.
fn unanswered(asked: Instant, activity: &Activity) -> Duration {
    asked.elapsed().min(activity.still())
}
