//! HTTP/2 pings: whether a client that is silent while requests of its are in work is still there.
//!
//! TCP finds a host that is gone. A program that hangs, or a proxy that keeps the connection of a client that is
//! gone, still has a host that answers TCP; only HTTP/2 tells. A connection without a request in work is
//! closed as an idle one, so it is not asked: a pong would count as something that happens on it.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

use super::activity::Activity;

/// Silence of a client with requests in work after which it is asked, in seconds; a quarter of
/// `server.connection_timeout_secs` where that is less.
const PING_AFTER: Duration = Duration::from_secs(30);
const IDLE_PARTS: u32 = 4;

/// Time that a client has to answer, or the same quarter where that is less, but not less than the second bound:
/// its threads may be busy.
const PING_PATIENCE: Duration = Duration::from_secs(20);
const PING_PATIENCE_MIN: Duration = Duration::from_secs(2);

/// The pings of one connection.
pub(super) struct Pings {
    /// `None` where h2 gives no way to ask.
    ping: Option<PingPong>,
    after: Duration,
    patience: Duration,
    /// When the client was asked, and bytes that had come from it by then; `None` once there are more.
    asked: Option<(Instant, u64)>,
    /// A ping is on its way: h2 sends one at a time.
    is_out: bool,
}

impl Pings {
    /// Of a connection that is idle after `idle`.
    pub(super) fn new(ping: Option<PingPong>, idle: Duration) -> Self {
        let after = PING_AFTER.min(idle / IDLE_PARTS);
        let patience = PING_PATIENCE.min(idle / IDLE_PARTS).max(PING_PATIENCE_MIN);
        Self { ping, after, patience, asked: None, is_out: false }
    }

    /// In how long [`Self::look`] is due.
    pub(super) fn left(&self, activity: &Activity) -> Duration {
        match self.asked {
            Some((asked, _)) => self.patience.saturating_sub(unanswered(asked, activity)),
            None if activity.is_in_work() => self.after.saturating_sub(activity.silent()),
            None => self.after,
        }
    }

    /// Asks where it is time; true if the client has not answered.
    pub(super) fn look(&mut self, activity: &Activity) -> bool {
        let Some(ping) = &mut self.ping else { return false };
        if self.is_out && ping.poll_pong(&mut Context::from_waker(Waker::noop())).is_ready() {
            self.is_out = false;
        }
        if let Some((asked, received)) = self.asked {
            // Anything that it sends tells that it is there.
            if activity.received() == received {
                return unanswered(asked, activity) >= self.patience;
            }
            self.asked = None;
        }
        if activity.is_in_work() && activity.silent() >= self.after {
            // One that was never answered stands for the next one.
            self.is_out = self.is_out || ping.send_ping(Ping::opaque()).is_ok();
            self.asked = self.is_out.then(|| (Instant::now(), activity.received()));
        }
        false
    }
}

/// How long a client that was asked has given no sign. A ping waits behind what is being sent: while the client's
/// side takes bytes of a large answer, it may not have come to it.
fn unanswered(asked: Instant, activity: &Activity) -> Duration {
    asked.elapsed().min(activity.still())
}
