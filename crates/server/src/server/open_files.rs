//! File descriptors: the soft limit is raised to the hard one, and connections get the descriptors that files leave.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not for connections: rings, segments, snapshots, the log, listeners.
const FILES: u64 = 256;

/// Most HTTP connections that descriptors are reserved for; `status` has its own bound.
const HTTP_CONNECTIONS: u64 = 512;

/// With few descriptors, files get at least 1/2 of them, and HTTP gets 1/4 of the rest.
const FILES_SHARE: u64 = 2;
const HTTP_SHARE: u64 = 4;

/// Numbers of connections that there are descriptors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// gRPC connections.
    pub(super) grpc: usize,
    /// HTTP connections.
    pub(super) http: usize,
}

impl Room {
    /// Divides the descriptors, given that `wanted` gRPC connections are configured.
    fn within(limit: Option<u64>, wanted: usize) -> Self {
        let Some(limit) = limit else {
            return Self { grpc: wanted, http: HTTP_CONNECTIONS as usize };
        };
        let left = limit - FILES.min(limit / FILES_SHARE);
        let http = HTTP_CONNECTIONS.min(left / HTTP_SHARE);
        let grpc = usize::try_from(left - http).unwrap_or(usize::MAX);
        Self { grpc: wanted.min(grpc).max(1), http: (http as usize).max(1) }
    }
}

/// Raises the limit, and returns the connections that there is room for.
pub(super) fn fit(wanted: usize) -> Room {
    let limit = raise();
    let room = Room::within(limit, wanted);
    if room.grpc < wanted {
        let needed = wanted as u64 + FILES + HTTP_CONNECTIONS;
        tracing::warn!(
            "this process may have {} files open: at most {} connections of gRPC are accepted, not {wanted} \
             (server.max_connections), and {} of HTTP, so that files can still be opened. For all of \
             them: ulimit -Hn {needed}, or LimitNOFILE={needed} in a systemd unit",
            limit.unwrap_or(u64::MAX),
            room.grpc,
            room.http,
        );
    }
    room
}

/// Raises the soft limit to the hard one; returns the limit, `None` if there is none.
fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!("the limit of open files could not be raised: {error}");
            limit.current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_files_leave() {
        let room = |limit| Room::within(limit, 10_000);
        assert_eq!(room(None), Room { grpc: 10_000, http: 512 });
        assert_eq!(room(Some(1 << 20)), Room { grpc: 10_000, http: 512 });
        assert_eq!(room(Some(4_096)), Room { grpc: 4_096 - 256 - 512, http: 512 });
        assert_eq!(room(Some(1_024)), Room { grpc: 576, http: 192 });
        assert_eq!(room(Some(48)), Room { grpc: 18, http: 6 });
        assert_eq!(room(Some(0)), Room { grpc: 1, http: 1 });
        assert_eq!(Room::within(Some(1_024), 20), Room { grpc: 20, http: 192 });
    }
}
