//! A profile in the format of pprof (`profile.proto`), which its programs and continuous profilers read.
//! Of its messages those fields alone that are filled here.

use std::collections::HashMap;

use prost::Message;

use super::sampler::Samples;
use super::symbols::{Frame, KERNEL, Symbols};

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Gives out numbers from 1 for what must be in the profile once.
struct Writer {
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<u64, u64>,
}

impl Writer {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.into());
        self.strings.insert(text.into(), index);
        index
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.string(name), self.string(file));
        let id = self.functions.len() as u64 + 1;
        *self.functions.entry((name, filename)).or_insert_with(|| {
            self.profile.function.push(Function { id, name, system_name: name, filename });
            id
        })
    }

    fn location(&mut self, address: u64, frames: &[Frame]) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let id = self.locations.len() as u64 + 1;
        let line = frames.iter().map(|frame| Line {
            function_id: self.function(&frame.function, &frame.file),
            line: frame.line.into(),
        });
        let line = line.collect();
        self.profile.location.push(Location { id, address, line });
        self.locations.insert(address, id);
        id
    }
}

/// The profile, encoded.
pub(super) fn encode(samples: &Samples, symbols: &Symbols) -> Vec<u8> {
    let mut writer = Writer {
        profile: Profile::default(),
        strings: HashMap::new(),
        functions: HashMap::new(),
        locations: HashMap::new(),
    };
    // The first string is the empty one.
    writer.string("");
    let mut kind = |kind, unit| ValueType { kind: writer.string(kind), unit: writer.string(unit) };
    let (counted, timed) = (kind("samples", "count"), kind("cpu", "nanoseconds"));
    writer.profile.sample_type = vec![counted, timed];
    writer.profile.period_type = Some(timed);
    let period_ns = samples.period_ns();
    writer.profile.period = period_ns as i64;
    writer.profile.time_nanos = samples.begun_unix_ms as i64 * 1_000_000;
    writer.profile.duration_nanos = i64::try_from(samples.took.as_nanos()).unwrap_or(i64::MAX);
    let comment = format!("{} samples were lost", samples.lost);
    writer.profile.comment = vec![writer.string(&comment)];
    let in_kernel = Frame { function: KERNEL.into(), file: String::new(), line: 0 };
    for (stack, count) in &samples.stacks {
        let mut location_id = Vec::with_capacity(stack.addresses.len() + 1);
        if stack.is_in_kernel {
            location_id.push(writer.location(0, std::slice::from_ref(&in_kernel)));
        }
        for (address, frames) in symbols.locations(stack) {
            location_id.push(writer.location(address, frames));
        }
        let label = Label { key: writer.string("thread"), text: writer.string(&stack.thread) };
        let value = vec![*count as i64, (count * period_ns) as i64];
        writer.profile.sample.push(Sample { location_id, value, label: vec![label] });
    }
    writer.profile.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::sampler::Stack;
    use super::*;

    #[inline(never)]
    fn here() {
        std::hint::black_box(());
    }

    #[test]
    fn a_profile_has_every_name_once_and_its_time() {
        let address = here as fn() as usize as u64;
        let stack = |thread: &str, is_in_kernel| Stack {
            thread: thread.into(),
            is_in_kernel,
            addresses: vec![address],
        };
        let samples = Samples {
            stacks: vec![(stack("kyro-core-0", false), 3), (stack("kyro-gw-1", true), 2)],
            hertz: 100,
            ..Samples::default()
        };
        let bytes = encode(&samples, &Symbols::of(&samples));
        let profile = Profile::decode(bytes.as_slice()).unwrap();
        let text = |index: i64| profile.string_table[index as usize].as_str();
        assert_eq!(text(0), "");
        let mut names: Vec<&str> = profile.function.iter().map(|f| text(f.name)).collect();
        names.sort_unstable();
        assert!(
            names.iter().any(|name| name.contains("::pprof::") && name.ends_with("here")),
            "{names:?}"
        );
        assert!(names.contains(&KERNEL) && names.is_sorted_by(|a, b| a < b), "{names:?}");
        assert_eq!(profile.sample[0].value, [3, 30_000_000]);
        assert_eq!(profile.sample[1].location_id.len(), 2);
        let threads = profile.sample.iter().map(|sample| text(sample.label[0].text));
        assert_eq!(threads.collect::<Vec<_>>(), ["kyro-core-0", "kyro-gw-1"]);
    }
}
