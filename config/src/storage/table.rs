//! Lines of device-mapper tables, as the kernel prints them.

use super::{PLAIN, StorageError, refused};
use collector::plan::storage::{Place, Segment, To};
use collector::storage::mapper::Line;

/// A line of a table. `place` says which part of the stack a device number (`8:1`) is.
pub(super) fn segment(
    device: &str,
    line: &Line,
    place: &mut dyn FnMut(&str) -> Result<usize, StorageError>,
) -> Result<Segment, StorageError> {
    let odd = || {
        let what =
            format!("device mapper with a line that is not understood ({} {})", line.kind, line.parameters);
        refused(device, what, PLAIN)
    };
    let mut words = line.parameters.split_whitespace();
    let mut next_place = |words: &mut dyn Iterator<Item = &str>| -> Result<Place, StorageError> {
        let part = place(words.next().ok_or_else(odd)?)?;
        let start = words.next().and_then(|word| word.parse().ok()).ok_or_else(odd)?;
        Ok(Place { part, start })
    };
    let to = match line.kind.as_str() {
        "linear" => To::Linear(next_place(&mut words)?),
        "striped" => {
            let count: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(odd)?;
            let chunk = words.next().and_then(|word| word.parse().ok()).ok_or_else(odd)?;
            let stripes = (0..count).map(|_| next_place(&mut words)).collect::<Result<Vec<_>, _>>()?;
            To::Striped { chunk, stripes }
        }
        "error" => To::Error,
        kind => {
            let what = match kind {
                "raid" | "mirror" => "an LVM mirror or RAID",
                "thin" | "thin-pool" => "thinly provisioned",
                "snapshot" | "snapshot-origin" | "snapshot-merge" => "an LVM snapshot, or has one",
                "cache" | "writecache" | "era" | "clone" => "behind a cache",
                "integrity" | "verity" => "checked by dm-integrity or dm-verity",
                "vdo" => "a VDO volume",
                _ => "a kind of device mapper that cannot be put together",
            };
            return Err(refused(device, format!("{what} (device mapper's {kind})"), PLAIN));
        }
    };
    match words.next() {
        None => Ok(Segment { sectors: line.sectors, to }),
        Some(_) => Err(odd()),
    }
}

/// The hardware handler of a multipath table: behind the features, both counted.
pub(super) fn handler(parameters: &str) -> Option<String> {
    let mut words = parameters.split_whitespace();
    let features: usize = words.next()?.parse().ok()?;
    let mut words = words.skip(features);
    let count: usize = words.next()?.parse().ok()?;
    let handler = words.next()?;
    let plain = handler.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (count > 0 && plain).then(|| handler.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, parameters: &str) -> Result<Segment, String> {
        let line = Line { start: 0, sectors: 64, kind: kind.to_owned(), parameters: parameters.to_owned() };
        segment("dm-0", &line, &mut |number| Ok(if number == "8:1" { 0 } else { 1 }))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn lines_as_the_kernel_prints_them() {
        let place = |part, start| Place { part, start };
        for (kind, parameters, to) in [
            ("linear", "8:1 2048", To::Linear(place(0, 2048))),
            (
                "striped",
                "2 128 8:1 2048 8:17 384",
                To::Striped { chunk: 128, stripes: vec![place(0, 2048), place(1, 384)] },
            ),
            ("error", "", To::Error),
        ] {
            assert_eq!(read(kind, parameters).unwrap(), Segment { sectors: 64, to }, "{kind} {parameters}");
        }
        for (kind, parameters, why) in [
            ("linear", "8:1", "not understood"),
            ("linear", "8:1 2048 3", "not understood"),
            ("striped", "2 128 8:1 2048", "not understood"),
            ("thin", "253:2 1", "thinly provisioned"),
            ("raid", "raid1 3 0 region_size 1024", "an LVM mirror or RAID"),
            ("snapshot-origin", "253:1", "snapshot"),
        ] {
            let error = read(kind, parameters).unwrap_err();
            assert!(error.contains(why), "{kind} {parameters}: {error}");
        }
    }

    #[test]
    fn handlers() {
        for (parameters, expected) in [
            ("0 0 1 1 service-time 0 1 2 8:0 1 1", None),
            ("0 1 alua 1 1 service-time 0 1 2 8:0 1 1", Some("alua")),
            ("2 queue_if_no_path retain_attached_hw_handler 1 alua 2 1", Some("alua")),
            ("1 queue_if_no_path 0 1 1", None),
            ("3 pg_init_retries 50 queue_if_no_path 1 rdac 1 1", Some("rdac")),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(handler(parameters).as_deref(), expected, "{parameters}");
        }
    }
}
