//! VMCOREINFO: the text note in which a kernel says where its things are.

use crate::addr::VirtAddr;
use std::collections::BTreeMap;

/// VMCOREINFO: `KEY=value` and `KIND(name)=value` lines.
#[derive(Clone, Debug, Default)]
pub struct VmcoreInfo {
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Parses the note's text; lines that are no `key=value` are passed over.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let pairs = text.lines().filter_map(|l| l.trim_end_matches('\0').split_once('='));
        Self { values: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }
    /// Takes from another VMCOREINFO of the same kernel what this one lacks. Addresses of symbols are moved by as much as
    /// the kernel was at its own boot: KERNELOFFSET, which a text that was made of the kernel's file has not.
    pub fn complete(&mut self, other: &Self) {
        let offset = |info: &Self| {
            info.get("KERNELOFFSET").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
        };
        let moved = offset(self).wrapping_sub(offset(other));
        for (key, value) in &other.values {
            // These are of one boot, not of a kernel.
            if self.values.contains_key(key) || matches!(key.as_str(), "CRASHTIME" | "KERNELOFFSET") {
                continue;
            }
            let address = key.starts_with("SYMBOL(").then(|| u64::from_str_radix(value, 16).ok()).flatten();
            let value = address.map_or_else(|| value.clone(), |at| format!("{:x}", at.wrapping_add(moved)));
            self.values.insert(key.clone(), value);
        }
    }
    /// A line's value by its whole key: `OSRELEASE`, `SIZE(page)`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }
    /// `SYMBOL(name)`, hexadecimal.
    pub fn symbol(&self, name: &str) -> Option<VirtAddr> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok().map(VirtAddr::new)
    }
    /// `SIZE(name)`, decimal bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.get(&format!("SIZE({name})"))?.parse().ok()
    }
    /// `OFFSET(struct.member)`, decimal bytes.
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.get(&format!("OFFSET({name})"))?.parse().ok()
    }
    /// `LENGTH(name)`, elements.
    pub fn length(&self, name: &str) -> Option<u64> {
        self.get(&format!("LENGTH({name})"))?.parse().ok()
    }
    /// `NUMBER(name)`: decimal, possibly negative.
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(u64::cast_signed),
            None => text.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_comes_from_elsewhere() {
        let mut own = VmcoreInfo::parse(b"OSRELEASE=6.1\nKERNELOFFSET=ba00000\nSYMBOL(a)=ffffffff8ca00000\n");
        own.complete(&VmcoreInfo::parse(
            b"OSRELEASE=6.2\nSIZE(page)=64\nSYMBOL(a)=ffffffff81000000\nSYMBOL(b)=ffffffff82bfb000\n",
        ));
        assert_eq!((own.get("OSRELEASE"), own.size("page")), (Some("6.1"), Some(64)));
        let at = |name| own.symbol(name).map(VirtAddr::get);
        assert_eq!((at("a"), at("b")), (Some(0xffff_ffff_8ca0_0000), Some(0xffff_ffff_8e5f_b000)));
        // Of another boot of the same kernel.
        own.complete(&VmcoreInfo::parse(b"KERNELOFFSET=1000000\nSYMBOL(c)=ffffffff82000000\n"));
        assert_eq!(own.symbol("c").map(VirtAddr::get), Some(0xffff_ffff_8ca0_0000));
    }
}
