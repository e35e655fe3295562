//! Kernel statistics on the threads of this process.

/// Id and name of the threads with this name prefix.
pub(crate) fn named(prefix: &str) -> Vec<(i32, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let tasks = tasks.filter_map(|task| {
        let task = task.unwrap();
        let id = task.file_name().into_string().unwrap().parse().unwrap();
        // It may have ended since.
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((id, name.trim_end().to_owned()))
    });
    tasks.filter(|(_, name)| name.starts_with(prefix)).collect()
}

/// Number of times they have gone to sleep.
pub(crate) fn sleeps(prefix: &str) -> u64 {
    let sleeps = |(id, _): (i32, String)| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{id}/status")).unwrap();
        field(&status, "voluntary_ctxt_switches:")
    };
    named(prefix).into_iter().map(sleeps).sum()
}

/// The number after a name in a file under `/proc`.
pub(crate) fn field(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}
