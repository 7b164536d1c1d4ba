//! ELF64 as it lies in the file (System V gABI, chapters 4 and 5; elf(5)). Generic over the byte order, which a file
//! states in `e_ident[5]`; every struct is read unaligned.

use zerocopy::byteorder::{ByteOrder, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, LittleEndian, Unaligned};

/// `e_ident[0..4]`.
pub const MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];
/// `e_ident[4]` of a 64-bit file.
pub const CLASS64: u8 = 2;
/// `e_ident[5]` of a little-endian file.
pub const DATA_LITTLE: u8 = 1;
/// `e_ident[5]` of a big-endian file.
pub const DATA_BIG: u8 = 2;
/// `e_ident[6]`: the only version there is.
pub const EV_CURRENT: u8 = 1;
/// `e_type` of a core file.
pub const ET_CORE: u16 = 4;
/// `e_phnum` that means: the count did not fit, it is in `sh_info` of section 0.
pub const PN_XNUM: u16 = 0xffff;
/// `p_type` of a stretch of memory.
pub const PT_LOAD: u32 = 1;
/// `p_type` of a stretch of notes.
pub const PT_NOTE: u32 = 4;
/// `n_type` of a CPU's registers, with the name `CORE`.
pub const NT_PRSTATUS: u32 = 1;
/// Note of /proc/kcore alone: a copy of the `task_struct` of whoever reads it.
pub const NT_TASKSTRUCT: u32 = 4;

/// `e_machine` of 64-bit PowerPC, either byte order.
pub const EM_PPC64: u16 = 21;
/// `e_machine` of s390x.
pub const EM_S390: u16 = 22;
/// `e_machine` of x86-64.
pub const EM_X86_64: u16 = 62;
/// `e_machine` of arm64.
pub const EM_AARCH64: u16 = 183;
/// `e_machine` of RISC-V.
pub const EM_RISCV: u16 = 243;
/// `e_machine` of LoongArch.
pub const EM_LOONGARCH: u16 = 258;

/// The file header, at offset 0.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct FileHeader<O: ByteOrder> {
    /// Magic, class, byte order, version, OS ABI, padding.
    pub ident: [u8; 16],
    /// [`ET_CORE`].
    pub kind: U16<O>,
    /// Machine of the crashed kernel.
    pub machine: U16<O>,
    /// 1.
    pub version: U32<O>,
    /// 0 in a core.
    pub entry: U64<O>,
    /// Where the program headers start, bytes from the start of the file. Not always 64: QEMU puts section headers first.
    pub phoff: U64<O>,
    /// Where the section headers start; 0 without any.
    pub shoff: U64<O>,
    /// Of the machine; makedumpfile sets bit 0 in an incomplete dump.
    pub flags: U32<O>,
    /// Bytes of this header; QEMU 7.2 writes 8 here, so it is not looked at.
    pub ehsize: U16<O>,
    /// Bytes from one program header to the next.
    pub phentsize: U16<O>,
    /// Number of program headers, or [`PN_XNUM`].
    pub phnum: U16<O>,
    /// Bytes from one section header to the next.
    pub shentsize: U16<O>,
    /// Number of section headers.
    pub shnum: U16<O>,
    /// Index of the section with names.
    pub shstrndx: U16<O>,
}

/// A program header.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct ProgramHeader<O: ByteOrder> {
    /// [`PT_LOAD`], [`PT_NOTE`].
    pub kind: U32<O>,
    /// Permissions.
    pub flags: U32<O>,
    /// Where its bytes start in the file.
    pub offset: U64<O>,
    /// Kernel virtual address.
    pub vaddr: U64<O>,
    /// Physical address.
    pub paddr: U64<O>,
    /// Bytes in the file.
    pub filesz: U64<O>,
    /// Bytes in memory.
    pub memsz: U64<O>,
    /// Alignment.
    pub align: U64<O>,
}

/// A section header; only `info` of the first one matters, when `phnum` is [`PN_XNUM`].
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct SectionHeader<O: ByteOrder> {
    /// Offset of its name.
    pub name: U32<O>,
    /// 0 for section 0.
    pub kind: U32<O>,
    /// Flags.
    pub flags: U64<O>,
    /// Address.
    pub addr: U64<O>,
    /// Offset in the file.
    pub offset: U64<O>,
    /// Bytes.
    pub size: U64<O>,
    /// Link.
    pub link: U32<O>,
    /// The number of program headers, in section 0.
    pub info: U32<O>,
    /// Alignment.
    pub addralign: U64<O>,
    /// Entry size.
    pub entsize: U64<O>,
}

/// A note's header. Name and descriptor follow, each padded to 4 bytes.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
pub struct NoteHeader<O: ByteOrder> {
    /// Bytes of the name, its NUL included.
    pub namesz: U32<O>,
    /// Bytes of the descriptor.
    pub descsz: U32<O>,
    /// [`NT_PRSTATUS`], 0 for VMCOREINFO.
    pub kind: U32<O>,
}

const _: () = {
    assert!(size_of::<FileHeader<LittleEndian>>() == 64);
    assert!(std::mem::offset_of!(FileHeader<LittleEndian>, phoff) == 32);
    assert!(std::mem::offset_of!(FileHeader<LittleEndian>, phnum) == 56);
    assert!(size_of::<ProgramHeader<LittleEndian>>() == 56);
    assert!(std::mem::offset_of!(ProgramHeader<LittleEndian>, paddr) == 24);
    assert!(size_of::<SectionHeader<LittleEndian>>() == 64);
    assert!(std::mem::offset_of!(SectionHeader<LittleEndian>, info) == 44);
    assert!(size_of::<NoteHeader<LittleEndian>>() == 12);
};
