use kyrodb::{dataset::*, kernels::*, store::Vectors, types::*};
use std::time::Instant;
fn main() {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let base = read_vectors(&dir.join("base.npy")).unwrap();
    let v = Vectors::new(base.width);
    for row in base.iter() {
        let mut row = row.to_vec();
        normalize(&mut row);
        v.append(&row);
    }
    let n = v.count();
    let smaps = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
    for b in all.split("\n7").filter(|b| b.contains("AnonHugePages") && b.contains("Rss:")) {
        let g = |k: &str| {
            b.lines()
                .find(|l| l.starts_with(k))
                .unwrap_or("")
                .split_whitespace()
                .nth(1)
                .unwrap_or("0")
                .parse::<u64>()
                .unwrap_or(0)
        };
        if g("Rss:") > 5000 {
            println!(
                "{} rss {} huge {} {}",
                b.lines().next().unwrap(),
                g("Rss:"),
                g("AnonHugePages:"),
                b.lines().find(|l| l.starts_with("VmFlags")).unwrap_or("")
            );
        }
    }
    println!("{}", smaps.lines().find(|l| l.starts_with("AnonHuge")).unwrap());
    let q = v.row(Slot(5)).to_vec();
    for _ in 0..4 {
        let t = Instant::now();
        let mut s = 0.0;
        for i in 0..n {
            s += NegatedDot::between(&q, v.row(Slot(i)));
        }
        println!("scan {:.1} ns/doc ({s})", t.elapsed().as_nanos() as f64 / n as f64);
        let t = Instant::now();
        let mut s = 0.0;
        for i in 0..n {
            s += NegatedDot::between(&q, v.row(Slot(i % 8)));
        }
        println!("cached {:.1} ns/doc ({s})", t.elapsed().as_nanos() as f64 / n as f64);
        let t = Instant::now();
        let mut s = 0.0;
        for i in 0..n {
            s += NegatedDot::between(&q, v.row(Slot((mix(i as u64) % n as u64) as u32)));
        }
        println!("random {:.1} ns/doc ({s})", t.elapsed().as_nanos() as f64 / n as f64);
    }
}
