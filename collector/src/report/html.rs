//! The report as one page for a browser: nothing of it is fetched from anywhere.
//!
//! The text, folded by its sections; where memory went as a picture; the log with a search.

use super::memory::Memory;
use super::{Report, text};
use std::fmt::Write;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem;color:#1c2733;background:#fff}
h1{font-size:1.25rem;border-left:.4rem solid #b3261e;padding-left:.7rem}
pre{font:12.5px/1.4 ui-monospace,monospace;background:#f4f6f8;padding:.7rem;overflow-x:auto;margin:.3rem 0}
details{margin:.4rem 0}summary{cursor:pointer;font-weight:600}
#map{display:flex;height:3.2rem;border-radius:.3rem;overflow:hidden;background:#dde3e9}
#map div{min-width:1px}#key span{display:inline-block;margin-right:1.1rem;white-space:nowrap}
#key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;vertical-align:-.05rem}
.bad{color:#b3261e;font-weight:600}.near{color:#8a5a00;font-weight:600}
input{font:inherit;width:24rem;max-width:100%;padding:.25rem .5rem}mark{background:#ffe08a}
meter{width:24rem;max-width:100%}
@media(prefers-color-scheme:dark){body{background:#14191f;color:#dfe6ee}pre{background:#1d252e}#map{background:#2a343f}}";

/// Shows the lines of the log that have what is typed. `document.title` tells a test that it ran.
const SCRIPT: &str = "\
const log=document.getElementById('log'),all=log.textContent.split('\\n'),box=document.getElementById('find'),
count=document.getElementById('count');
function find(){const word=box.value.toLowerCase();log.textContent='';let n=0;const piece=document.createDocumentFragment();
for(const line of all){const at=word?line.toLowerCase().indexOf(word):-1;if(word&&at<0)continue;n++;
if(at<0){piece.append(line+'\\n');continue}const m=document.createElement('mark');m.textContent=line.slice(at,at+word.length);
piece.append(line.slice(0,at),m,line.slice(at+word.length)+'\\n')}log.append(piece);count.textContent=n+' lines'}
box.addEventListener('input',find);if(location.hash.startsWith('#find=')){box.value=decodeURIComponent(location.hash.slice(6))}find();";

/// A text within the page.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// Memory in parts that do not overlap: name, colour, KiB. What nobody accounts for is the last.
fn parts(memory: &Memory) -> Vec<(&'static str, &'static str, u64)> {
    let huge =
        memory.huge_pages.iter().map(|h| h.total.saturating_mul(h.size_kib)).fold(0, u64::saturating_add);
    let cached = memory.cached.unwrap_or(0).saturating_sub(memory.shared.unwrap_or(0));
    let known = [
        ("free", "#9fb3c8", memory.free),
        ("programs", "#3d7dd9", memory.anonymous),
        ("page cache", "#4caf7d", Some(cached)),
        ("buffers", "#8bc34a", memory.buffers),
        ("shared, tmpfs", "#26a69a", memory.shared),
        ("slab, reclaimable", "#f2b134", memory.slab_reclaimable),
        ("slab, not reclaimable", "#e06c3a", memory.slab_unreclaimable),
        ("page tables", "#a25ddc", memory.page_tables),
        ("kernel stacks", "#d6569b", memory.kernel_stacks),
        ("vmalloc", "#7e6bd6", memory.vmalloc),
        ("huge pages", "#5d4037", Some(huge)),
    ];
    let mut parts: Vec<_> = known
        .into_iter()
        .filter_map(|(name, colour, kib)| Some((name, colour, kib.filter(|k| *k > 0)?)))
        .collect();
    let sum = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.2));
    let rest = memory.total.unwrap_or(0).saturating_sub(sum);
    if rest > 0 {
        parts.push(("the kernel's other", "#546472", rest));
    }
    parts
}

/// The whole page. `held`: bytes of memory that the dump has, and that the machine had.
pub fn html(report: &Report, held: Option<(u64, u64)>) -> String {
    let mut page = String::new();
    let verdict = &report.verdict;
    let host = &report.kernel.nodename;
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{} {}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1 id=\"verdict\">{}</h1><ul>",
        escaped(host),
        escaped(&report.kernel.release),
        escaped(&verdict.line)
    );
    for line in &verdict.evidence {
        let _ = write!(page, "<li>{}</li>", escaped(line));
    }
    let _ = write!(page, "</ul><p>signature <code>{}</code></p>", escaped(&verdict.signature));
    map(&mut page, &report.memory);
    if let Some((kept, all @ 1..)) = held {
        let _ = write!(
            page,
            "<p id=\"kept\"><meter max=\"{all}\" value=\"{kept}\"></meter> the dump has {} of {} MiB: {} % of all pages</p>",
            kept >> 20,
            all >> 20,
            u128::from(kept) * 100 / u128::from(all)
        );
    }
    let shown = text::text(report);
    for section in shown.split("\n== ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let title = title.trim_end_matches('=').trim();
        if title == "log" {
            continue;
        }
        let open = if matches!(title, "machine" | "the task that died" | "the task that was hung") {
            " open"
        } else {
            ""
        };
        let _ = write!(
            page,
            "<details{open}><summary>{}</summary><pre>{}</pre></details>",
            escaped(title),
            escaped(body)
        );
    }
    let _ = writeln!(
        page,
        "<h2>Log</h2><p><input id=\"find\" placeholder=\"search the log\" aria-label=\"search the log\"> \
         <span id=\"count\"></span></p><pre id=\"log\">{}</pre><script>{SCRIPT}</script></body></html>",
        escaped(&report.log.lines.join("\n"))
    );
    page
}

/// The picture of memory.
fn map(page: &mut String, memory: &Memory) {
    let Some(total @ 1..) = memory.total else { return };
    let _ = write!(page, "<h2>Memory: {} MiB</h2><div id=\"map\">", total >> 10);
    let parts = parts(memory);
    for (name, colour, kib) in &parts {
        let _ = write!(
            page,
            "<div style=\"flex:{kib};background:{colour}\" title=\"{name}: {} MiB\"></div>",
            kib >> 10
        );
    }
    page.push_str("</div><p id=\"key\">");
    for (name, colour, kib) in &parts {
        let _ = write!(page, "<span><i style=\"background:{colour}\"></i>{name} {} MiB</span>", kib >> 10);
    }
    page.push_str("</p>");
    for remark in &memory.remarks {
        let class = if remark.mark == super::memory::Mark::Breach { "bad" } else { "near" };
        let _ = write!(page, "<p class=\"{class}\">{} {}</p>", remark.mark, escaped(&remark.text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_whole() {
        let memory = Memory {
            total: Some(1000),
            free: Some(300),
            anonymous: Some(200),
            cached: Some(250),
            shared: Some(50),
            ..Memory::default()
        };
        let parts = parts(&memory);
        assert_eq!(parts.iter().map(|p| p.2).sum::<u64>(), 1000);
        assert_eq!(parts.last().map(|p| (p.0, p.2)), Some(("the kernel's other", 250)));
        let mut page = String::new();
        map(&mut page, &memory);
        assert!(page.contains("flex:300") && !page.contains("NaN"), "{page}");
        assert_eq!(escaped("<a&\"b\">"), "&lt;a&amp;&quot;b&quot;&gt;");
    }
}
