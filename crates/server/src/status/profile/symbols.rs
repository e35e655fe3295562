//! What addresses are called, inlined functions included.

use std::collections::HashMap;
use std::ffi::c_void;

use super::sampler::{Samples, Stack};

/// A function of which there is no name.
const UNKNOWN: &str = "[unknown]";

/// Where time in the kernel is shown, at the end of the stack that has led there.
pub(super) const KERNEL: &str = "[kernel]";

/// A function, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// The names of all addresses of some samples.
pub(super) struct Symbols {
    /// By the address that was asked about: the functions that are there, innermost first.
    frames: HashMap<u64, Vec<Frame>>,
}

impl Symbols {
    /// Looks up what there is in these.
    pub(super) fn of(samples: &Samples) -> Self {
        let mut frames = HashMap::new();
        for (stack, _) in &samples.stacks {
            for call in calls(stack) {
                frames.entry(call).or_insert_with(|| resolve(call));
            }
        }
        // What was read of the binary for it is not to stay in memory.
        backtrace::clear_symbol_cache();
        Self { frames }
    }

    /// The functions of a stack, innermost first.
    pub(super) fn frames(&self, stack: &Stack) -> impl Iterator<Item = &Frame> {
        self.locations(stack).flat_map(|(_, frames)| frames)
    }

    /// The addresses of a stack with their functions, innermost first.
    pub(super) fn locations(&self, stack: &Stack) -> impl Iterator<Item = (u64, &[Frame])> {
        calls(stack).filter_map(|call| Some((call, self.frames.get(&call)?.as_slice())))
    }
}

/// The addresses of a stack as `backtrace` wants them: it looks one byte in front of each, since that of
/// a return may be in the next function already. The innermost one is no return.
fn calls(stack: &Stack) -> impl Iterator<Item = u64> {
    let addresses = stack.addresses.iter().enumerate();
    addresses.map(|(index, &address)| if index == 0 { address.wrapping_add(1) } else { address })
}

fn resolve(call: u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    backtrace::resolve(call as *mut c_void, |symbol| {
        let name = symbol.name().map(|name| format!("{name:#}"));
        let file = symbol.filename().map(|path| path.display().to_string());
        let file = file.unwrap_or_default();
        frames.push(Frame {
            function: name
                .map_or_else(|| UNKNOWN.into(), |name| qualified(shortened(&name), &file)),
            file,
            line: symbol.lineno().unwrap_or(0),
        });
    });
    if frames.is_empty() {
        frames.push(Frame { function: UNKNOWN.into(), file: String::new(), line: 0 });
    }
    frames
}

/// A name without the parameters of its types, which fill lines and say little: what stands in angle
/// brackets, but for a type in front of whose method they are, `<Type as Trait>::method`.
fn shortened(name: &str) -> String {
    let mut short = String::with_capacity(name.len().min(128));
    let (mut depth, mut is_qualified, mut before) = (0_u32, false, None);
    for letter in name.chars() {
        match letter {
            '<' => {
                is_qualified |= depth == 0 && short.is_empty();
                depth += 1;
                if depth == 1 && is_qualified {
                    short.push('<');
                }
            }
            // Not that of an arrow.
            '>' if before != Some('-') && depth > 0 => {
                depth -= 1;
                if depth == 0 && is_qualified {
                    short.push('>');
                    is_qualified = false;
                }
            }
            _ if depth == 0 || depth == 1 && is_qualified => short.push(letter),
            _ => {}
        }
        before = Some(letter);
    }
    // What is no name of Rust, as the comparison of two numbers in one of C++.
    if depth == 0 && !short.is_empty() { short } else { name.into() }
}

/// A name with its module in front, if it has none: what is said of inlined functions has only their
/// files.
fn qualified(name: String, file: &str) -> String {
    match module(file).filter(|_| !name.contains("::")) {
        Some(module) => format!("{module}::{name}"),
        None => name,
    }
}

/// The module that a file is of: `…/tokio-1.2.3/src/net/mod.rs` is `tokio::net`.
fn module(file: &str) -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR").trim_end_matches("/crates/server");
    let own = file.strip_prefix(root).unwrap_or(file);
    let own = own.trim_start_matches("./").trim_start_matches('/');
    // The crates of this repository, the package at its root, and those of others.
    let of_crate = own.strip_prefix("crates/").and_then(|own| own.split_once("/src/"));
    let (package, path) = match (of_crate, own.strip_prefix("src/")) {
        (Some((name, path)), _) => (format!("kyrodb-{name}"), path),
        (None, Some(path)) => ("kyrodb".to_owned(), path),
        (None, None) => {
            let (folder, path) = file.rsplit_once("/src/")?;
            (folder.rsplit('/').next()?.to_owned(), path)
        }
    };
    let is_version = |text: &str| text.starts_with(|letter: char| letter.is_ascii_digit());
    let package = match package.rsplit_once('-') {
        Some((package, version)) if is_version(version) => package,
        _ => &package,
    };
    let path = path.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let path = if path == "lib" { String::new() } else { format!("::{}", path.replace('/', "::")) };
    Some(format!("{}{path}", package.replace('-', "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inlined_functions_are_named_by_their_files() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/status/http.rs");
        let registry = "/r/registry/src/index.crates.io-1949cf8c6b5b557f";
        for (name, file, full) in [
            ("walk", own, "kyrodb_server::status::http::walk"),
            ("dots", "crates/engine/src/kernels/mod.rs", "kyrodb_engine::kernels::dots"),
            ("main", "src/bin/kyrodb_ctl.rs", "kyrodb::bin::kyrodb_ctl::main"),
            ("poll", &format!("{registry}/tokio-1.54.1/src/time/mod.rs"), "tokio::time::poll"),
            ("get", &format!("{registry}/arc-swap-1.9.0/src/lib.rs"), "arc_swap::get"),
            ("add", "/rustc/5980/library/core/src/ptr/mut_ptr.rs", "core::ptr::mut_ptr::add"),
            ("a::b", own, "a::b"),
            ("_int_free", "./malloc/malloc.c", "_int_free"),
            ("main", "", "main"),
        ] {
            assert_eq!(qualified(name.into(), file), full);
        }
    }

    #[test]
    fn names_lose_their_parameters_and_nothing_else() {
        for (name, short) in [
            ("kyrodb::graph::search::walk", "kyrodb::graph::search::walk"),
            ("call_once<fn(u32) -> Option<u8>, ()>", "call_once"),
            (
                "<alloc::boxed::Box<dyn F<()> + Send> as F<()>>::call",
                "<alloc::boxed::Box as F>::call",
            ),
            ("map<a::B<c>>::{closure#0}", "map::{closure#0}"),
            (
                "<f32 as simsimd::SpatialSimilarity>::dot",
                "<f32 as simsimd::SpatialSimilarity>::dot",
            ),
            ("operator<", "operator<"),
            ("__memcpy_avx512_unaligned_erms", "__memcpy_avx512_unaligned_erms"),
        ] {
            assert_eq!(shortened(name), short);
        }
    }
}
