//! Small vmcores for tests, built byte by byte: nothing of what reads them is used.

/// An ELF core to be.
#[derive(Clone, Default)]
pub(crate) struct Core {
    /// PT_LOADs: physical address, virtual address, contents, bytes of memory.
    pub loads: Vec<(u64, u64, Vec<u8>, u64)>,
    /// PT_NOTEs.
    pub notes: Vec<Vec<u8>>,
    /// Bytes between file header and program headers.
    pub gap: usize,
    /// Whether the number of program headers is in section 0.
    pub xnum: bool,
}

/// A note.
pub(crate) fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for n in [name.len() + 1, desc.len(), kind as usize] {
        out.extend(u32::try_from(n).unwrap().to_le_bytes());
    }
    out.extend(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(desc);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

impl Core {
    /// A core with this VMCOREINFO and the registers of one CPU.
    pub fn new(vmcoreinfo: &str) -> Self {
        let notes = [note("CORE", 1, &[0; 336]), note("VMCOREINFO", 0, vmcoreinfo.as_bytes())].concat();
        Self { notes: vec![notes], ..Self::default() }
    }

    /// With memory at `paddr`.
    pub fn load(mut self, paddr: u64, bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        self.loads.push((paddr, 0, bytes, len));
        self
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let count = self.notes.len() + self.loads.len();
        let sections = 64 + self.gap;
        let phoff = sections + if self.xnum { 64 } else { 0 };
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend([4_u16, 62].map(u16::to_le_bytes).concat());
        out.extend(1_u32.to_le_bytes());
        let shoff = if self.xnum { sections as u64 } else { 0 };
        out.extend([0, phoff as u64, shoff].map(u64::to_le_bytes).concat());
        out.extend(0_u32.to_le_bytes());
        let phnum = if self.xnum { 0xffff } else { u16::try_from(count).unwrap() };
        out.extend([8_u16, 56, phnum, 64, u16::from(self.xnum), 0].map(u16::to_le_bytes).concat());
        out.resize(sections, 0xee);
        if self.xnum {
            let mut section = vec![0; 64];
            section[44..48].copy_from_slice(&u32::try_from(count).unwrap().to_le_bytes());
            out.extend(section);
        }
        let mut at = (phoff + 56 * count) as u64;
        let mut data: Vec<u8> = Vec::new();
        let notes = self.notes.iter().map(|n| (4_u32, 0, 0, n, n.len() as u64));
        for (kind, paddr, vaddr, bytes, memsz) in
            notes.chain(self.loads.iter().map(|(p, v, b, m)| (1, *p, *v, b, *m)))
        {
            out.extend([kind, 0].map(u32::to_le_bytes).concat());
            out.extend([at, vaddr, paddr, bytes.len() as u64, memsz, 0].map(u64::to_le_bytes).concat());
            data.extend(bytes);
            at += bytes.len() as u64;
        }
        out.extend(data);
        out
    }
}

/// Physical memory from 0 with x86-64 page tables in it.
pub(crate) struct Memory {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Physical address of the top table.
    pub root: u64,
    /// 4 or 5.
    pub levels: u32,
    next: u64,
}

impl Memory {
    /// `len` bytes; tables are made from `tables` on, the top one first.
    pub fn new(len: usize, tables: u64, levels: u32) -> Self {
        Self { bytes: vec![0; len], root: tables, levels, next: tables + 4096 }
    }

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put_u64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn word(&self, at: u64) -> u64 {
        let at = usize::try_from(at).unwrap();
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// Maps `2^bits` bytes (12, 21 or 30) at `virt`, with `extra` bits in every entry on the way.
    pub fn map(&mut self, virt: u64, phys: u64, bits: u32, extra: u64) {
        let mut table = self.root;
        let mut shift = 12 + 9 * (self.levels - 1);
        loop {
            let slot = table + (virt >> shift & 511) * 8;
            if shift == bits {
                let large = if bits > 12 { 0x80 } else { 0 };
                return self.put_u64(slot, phys | 0x63 | large | extra);
            }
            if self.word(slot) == 0 {
                self.put_u64(slot, self.next | 0x63 | extra);
                self.next += 4096;
            }
            table = self.word(slot) & 0x000f_ffff_ffff_f000 & !extra;
            shift -= 9;
        }
    }
}
