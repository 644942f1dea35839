//! Strips an eBPF object: DWARF goes, BTF stays.
//!
//! binutils cannot read eBPF objects everywhere, and llvm-objcopy would be one more large
//! package. A relocatable ELF64 file is simple enough: sections are copied, and indexes of
//! sections and symbols renumbered.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;
const RELOCATION: usize = 16;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_REL: u32 = 9;
const SHN_LORESERVE: u16 = 0xff00;
const STT_FILE: u8 = 4;

#[derive(Clone, Debug)]
struct Section {
    name: String,
    header: Vec<u8>,
    data: Vec<u8>,
}

impl Section {
    fn kind(&self) -> u32 {
        u32_at(&self.header, 4)
    }

    /// Needed for debuggers only; the loaders read BTF as it stands, without relocations.
    fn is_debug(&self) -> bool {
        let name = self.name.strip_prefix(".rel").unwrap_or(&self.name);
        name.starts_with(".debug_") || self.name.starts_with(".rel.BTF")
    }
}

/// The object without what is for debuggers.
pub fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let old = sections(elf)?;
    let kept: Vec<usize> = (0..old.len()).filter(|&i| !old[i].is_debug()).collect();
    let new_index: BTreeMap<usize, usize> = kept.iter().enumerate().map(|(n, &o)| (o, n)).collect();
    let index = |old: usize| new_index.get(&old).copied().context("refers to a stripped section");
    let mut new: Vec<Section> = kept.iter().map(|&i| old[i].clone()).collect();

    let mut names = Names::default();
    let symtab = new.iter().position(|s| s.kind() == SHT_SYMTAB).context("no symbol table")?;
    let old_names = &old[u32_at(&new[symtab].header, 40) as usize].data;
    let (symbols, symbol_index, locals) =
        symbols(&new[symtab].data, old_names, &new_index, &mut names)?;
    new[symtab].data = symbols;
    for section in &mut new {
        let (link, info) = (u32_at(&section.header, 40), u32_at(&section.header, 44));
        match section.kind() {
            SHT_SYMTAB => {
                put_u32(&mut section.header, 40, index(link as usize)? as u32);
                put_u32(&mut section.header, 44, locals);
            }
            SHT_REL => {
                put_u32(&mut section.header, 40, index(link as usize)? as u32);
                put_u32(&mut section.header, 44, index(info as usize)? as u32);
                renumber(&mut section.data, &symbol_index)?;
            }
            _ => {}
        }
        let name = names.add(&section.name);
        put_u32(&mut section.header, 0, name);
    }
    let strtab = index(u16_at(elf, 62) as usize)?;
    ensure!(new[strtab].kind() == SHT_STRTAB, "the section names are no string table");
    new[strtab].data = names.bytes;
    Ok(write(elf, new, strtab))
}

fn sections(elf: &[u8]) -> Result<Vec<Section>> {
    ensure!(elf.len() >= HEADER && elf.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit ELF file");
    let (offset, count) = (u64_at(elf, 40) as usize, u16_at(elf, 60) as usize);
    let headers = elf.get(offset..offset + count * SECTION).context("section headers")?;
    let mut found = Vec::new();
    for header in headers.chunks_exact(SECTION) {
        let (start, length) = (u64_at(header, 24) as usize, u64_at(header, 32) as usize);
        let data = elf.get(start..start + length).context("section contents")?;
        found.push(Section { name: String::new(), header: header.to_vec(), data: data.to_vec() });
    }
    let names = found.get(u16_at(elf, 62) as usize).context("section names")?.data.clone();
    for section in &mut found {
        section.name = string(&names, u32_at(&section.header, 0) as usize)?;
    }
    Ok(found)
}

/// Copies the symbols of kept sections: the new table, old index → new index, and how many
/// are local.
fn symbols(
    table: &[u8],
    old_names: &[u8],
    sections: &BTreeMap<usize, usize>,
    names: &mut Names,
) -> Result<(Vec<u8>, BTreeMap<u32, u32>, u32)> {
    let (mut bytes, mut indexes, mut locals) = (Vec::new(), BTreeMap::new(), 0);
    for (old, symbol) in table.chunks_exact(SYMBOL).enumerate() {
        let mut symbol = symbol.to_vec();
        let section = u16_at(&symbol, 6);
        let is_file = symbol[4] & 0xf == STT_FILE;
        if section < SHN_LORESERVE {
            match sections.get(&(section as usize)) {
                Some(new) => symbol[6..8].copy_from_slice(&(*new as u16).to_le_bytes()),
                None => continue,
            }
        }
        if is_file {
            continue;
        }
        let name = string(old_names, u32_at(&symbol, 0) as usize)?;
        put_u32(&mut symbol, 0, names.add(&name));
        let new = (bytes.len() / SYMBOL) as u32;
        indexes.insert(old as u32, new);
        if symbol[4] >> 4 == 0 {
            locals = new + 1;
        }
        bytes.extend(symbol);
    }
    Ok((bytes, indexes, locals))
}

fn renumber(relocations: &mut [u8], symbols: &BTreeMap<u32, u32>) -> Result<()> {
    for entry in relocations.chunks_exact_mut(RELOCATION) {
        let new = symbols.get(&u32_at(entry, 12)).context("relocation to a stripped symbol")?;
        put_u32(entry, 12, *new);
    }
    Ok(())
}

fn write(old: &[u8], sections: Vec<Section>, strtab: usize) -> Vec<u8> {
    let mut elf = old[..HEADER].to_vec();
    let mut headers = Vec::new();
    let count = sections.len() as u16;
    for mut section in sections {
        // The null section has alignment 0.
        let align = (u64_at(&section.header, 48) as usize).max(1);
        elf.resize(elf.len().next_multiple_of(align), 0);
        let offset = if section.data.is_empty() { 0 } else { elf.len() as u64 };
        section.header[24..32].copy_from_slice(&offset.to_le_bytes());
        section.header[32..40].copy_from_slice(&(section.data.len() as u64).to_le_bytes());
        elf.extend(section.data);
        headers.extend(section.header);
    }
    elf.resize(elf.len().next_multiple_of(8), 0);
    let offset = elf.len() as u64;
    elf[40..48].copy_from_slice(&offset.to_le_bytes());
    elf[60..62].copy_from_slice(&count.to_le_bytes());
    elf[62..64].copy_from_slice(&(strtab as u16).to_le_bytes());
    elf.extend(headers);
    elf
}

/// A string table.
struct Names {
    bytes: Vec<u8>,
}

impl Default for Names {
    fn default() -> Self {
        Self { bytes: vec![0] }
    }
}

impl Names {
    fn add(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        start
    }
}

fn string(names: &[u8], start: usize) -> Result<String> {
    let rest = names.get(start..).context("a name outside of the string table")?;
    let end = rest.iter().position(|b| *b == 0).context("a name without an end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
