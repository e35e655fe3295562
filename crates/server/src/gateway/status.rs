//! Errors as gRPC statuses with `google.rpc` details.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::Error;
use crate::observe::Observed;
use crate::observe::counters::ErrorCategory;

/// Domain of `ErrorInfo`.
const DOMAIN: &str = "kyrodb";

/// Time after which to retry when a quota is used up: documents have to be deleted first.
const QUOTA_RETRY: Duration = Duration::from_secs(10);

/// The status that tells a client what happened and what to do.
pub(super) fn status(error: &Error) -> Status {
    let message = told(error);
    let mut details = ErrorDetails::new();
    let (code, reason) = match error {
        Error::Invalid { field, why } => {
            details.add_bad_request_violation(*field, why);
            (Code::InvalidArgument, "INVALID_ARGUMENT")
        }
        Error::Busy { retry_after, .. } | Error::Limited { retry_after, .. } => {
            details.set_retry_info(Some(*retry_after));
            (Code::ResourceExhausted, "BUSY")
        }
        Error::Unavailable { retry_after, .. } | Error::Planned { retry_after, .. } => {
            details.set_retry_info(Some(*retry_after));
            (Code::Unavailable, "UNAVAILABLE")
        }
        Error::Expired(_) => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        Error::Quota(_) => {
            details.set_retry_info(Some(QUOTA_RETRY));
            (Code::ResourceExhausted, "QUOTA")
        }
        Error::Unauthenticated(_) => (Code::Unauthenticated, "UNAUTHENTICATED"),
        Error::Denied(_) => (Code::PermissionDenied, "PERMISSION_DENIED"),
        Error::Internal(_) => (Code::Internal, "INTERNAL"),
    };
    details.set_error_info(reason, DOMAIN, []);
    Status::with_error_details(code, message, details)
}

/// Text of an error for its client: of a file only its name.
pub(super) fn told(error: &Error) -> String {
    let text = error.to_string();
    match error {
        // The text is about the client's own request.
        Error::Invalid { .. } => text,
        _ => without_folders(text),
    }
}

/// Replaces every absolute path by its last part.
fn without_folders(text: String) -> String {
    let is_end = |c: char| c.is_whitespace() || "\"'`,;:()[]".contains(c);
    let mut told = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('/') {
        let (before, path) = rest.split_at(at);
        told += before;
        let is_path = before.is_empty() || before.ends_with(is_end);
        let end = path.find(is_end).unwrap_or(path.len());
        let (path, behind) = path.split_at(end);
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        told += if is_path && !name.is_empty() { name } else { path };
        rest = behind;
    }
    told + rest
}

/// Counts a failed request by its category.
pub(super) fn count(observed: &Observed, error: &Error) {
    let category = match error {
        Error::Invalid { .. } | Error::Unauthenticated(_) | Error::Denied(_) => {
            ErrorCategory::Validation
        }
        Error::Limited { .. } | Error::Quota(_) => ErrorCategory::Limited,
        Error::Planned { .. } => ErrorCategory::Planned,
        Error::Busy { .. } => ErrorCategory::ResourceExhausted,
        Error::Expired(_) => ErrorCategory::Timeout,
        Error::Unavailable { .. } | Error::Internal(_) => ErrorCategory::Internal,
    };
    observed.gateway.errors(category).add(1);
}

/// The error while the server is not ready to take requests.
pub(super) fn loading(progress: &str) -> Error {
    Error::Unavailable {
        what: format!("the server is starting: {progress}"),
        retry_after: Duration::from_millis(500),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_of_files_by_name() {
        for (text, told) in [
            (
                "no snapshot: create /var/lib/k/s_1.tmp: full (os error 28)",
                "no snapshot: create s_1.tmp: full (os error 28)",
            ),
            ("list /var/lib/kyrodb: I/O error", "list kyrodb: I/O error"),
            ("path: Some(\"/a/b/c\") with", "path: Some(\"c\") with"),
            ("/a/b/ and `/c/d`, /e", "b and `d`, e"),
            ("reads and/or writes, 3/s, a / b", "reads and/or writes, 3/s, a / b"),
        ] {
            assert_eq!(without_folders(text.into()), told);
        }
        let unavailable = status(&Error::unavailable("open /x/y: no"));
        assert_eq!(unavailable.message(), "open y: no");
        assert_eq!(status(&Error::invalid("path", "`/x/y`")).message(), "path: `/x/y`");
    }

    #[test]
    fn statuses_carry_what_a_client_needs() {
        let invalid = status(&Error::invalid("k", "0 is not between 1 and 1000"));
        assert_eq!(invalid.code(), Code::InvalidArgument);
        assert_eq!(invalid.message(), "k: 0 is not between 1 and 1000");
        let details = invalid.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "k");
        assert_eq!(details.error_info().unwrap().domain, "kyrodb");
        let busy = status(&Error::busy("full"));
        assert_eq!(busy.code(), Code::ResourceExhausted);
        let delay = busy.get_error_details().retry_info().unwrap().retry_delay;
        assert_eq!(delay, Some(Duration::from_millis(50)));
        let loading = status(&loading("reading"));
        assert_eq!(loading.code(), Code::Unavailable);
        assert!(loading.get_error_details().retry_info().is_some());
        assert_eq!(status(&Error::Expired("late")).code(), Code::DeadlineExceeded);
    }
}
