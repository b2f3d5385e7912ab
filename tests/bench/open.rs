//! Opens images of 1 MB and 1 GB of weights: the time it takes and the memory that is resident afterwards.

mod random_image;

use mote_host::Model;
use mote_runtime::image::Dtype;
use std::time::Instant;

/// Resident KiB of this process; 0 where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default().to_owned();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn main() {
    let folder = tempfile::tempdir_in(".").expect("a folder here");
    println!("| image bytes | tensors | ops | median time to open | resident before | after |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    // The same number of ops and tensors, so that only the weights differ.
    for dim in [192, 6144] {
        let path = folder.path().join(format!("{dim}.mote"));
        random_image::write(&random_image::llama(1024, dim, 3 * dim, 4, (dim / 64, dim / 64)), |_| Dtype::T4, &path);
        let mut times = Vec::new();
        let (mut before, mut after) = (0, 0);
        for _ in 0..21 {
            before = resident();
            let start = Instant::now();
            let model = Model::open(&path).unwrap();
            times.push(start.elapsed());
            after = resident();
            drop(model);
        }
        times.sort();
        let model = Model::open(&path).unwrap();
        println!(
            "| {} | {} | {} | {:.0} us | {before} KiB | {after} KiB |",
            std::fs::metadata(&path).unwrap().len(),
            model.image().tensor_count(),
            model.image().program().ops().count(),
            times[times.len() / 2].as_secs_f64() * 1e6,
        );
    }
}
