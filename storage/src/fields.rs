//! Fixed blocks of the formats as lists of fields: code and format pages name the same ones, and tests compare them.
//!
//! # Contract
//! * A field is read and written by its place alone. Whoever holds the block has checked its length.
//! * Fields called `reserved` are zero, and readers refuse blocks in which they are not.
//!
//! # What it does not know
//! Which blocks there are, and their checksums.

/// A field of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// As the format page calls it.
    pub name: &'static str,
    /// From the start of the block.
    pub offset: usize,
    /// In bytes.
    pub size: usize,
}

/// A field.
pub(crate) const fn field(name: &'static str, offset: usize, size: usize) -> Field {
    Field { name, offset, size }
}

impl Field {
    /// Its bytes.
    ///
    /// # Panics
    /// If the block ends before.
    #[inline]
    pub(crate) fn of(self, block: &[u8]) -> &[u8] {
        &block[self.offset..self.offset + self.size]
    }

    /// Its number; only the first eight bytes count.
    #[inline]
    pub(crate) fn get(self, block: &[u8]) -> u64 {
        self.of(block).iter().take(8).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Its number, of a field of four bytes.
    pub(crate) fn get_u32(self, block: &[u8]) -> u32 {
        u32::try_from(self.get(block)).expect("the field has four bytes")
    }

    /// Writes a number that it can hold.
    pub(crate) fn put(self, block: &mut [u8], number: u64) {
        assert!(self.size >= 8 || number >> (8 * self.size) == 0, "{} is too narrow", self.name);
        let size = self.size.min(8);
        block[self.offset..self.offset + size].copy_from_slice(&number.to_le_bytes()[..size]);
    }

    /// Writes bytes of its size.
    pub(crate) fn put_bytes(self, block: &mut [u8], bytes: &[u8]) {
        block[self.offset..self.offset + self.size].copy_from_slice(bytes);
    }
}

/// Whether the fields fill a block of this length, one after the other.
pub(crate) const fn fill(fields: &[Field], total: usize) -> bool {
    let (mut next, mut i) = (0, 0);
    while i < fields.len() {
        if fields[i].offset != next {
            return false;
        }
        next += fields[i].size;
        i += 1;
    }
    next == total
}

/// Whether everything reserved is zero.
pub(crate) fn is_clean(fields: &[Field], block: &[u8]) -> bool {
    let mut reserved = fields.iter().filter(|field| field.name == "reserved");
    reserved.all(|field| field.of(block).iter().all(|byte| *byte == 0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The part of a format page under the heading that begins like this, without the sections below it.
    pub(crate) fn section(page: &str, heading: &str) -> String {
        let path = format!("{}/../docs/format/{page}.md", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let found = text.split("\n## ").find(|part| part.starts_with(heading));
        found.unwrap_or_else(|| panic!("{path} has no section {heading}")).to_owned()
    }

    /// Rows of the table in a section of a format page: offset, size, field.
    pub(crate) fn documented(page: &str, heading: &str) -> Vec<(usize, usize, String)> {
        let text = section(page, heading);
        let rows = text.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, offset, size, _, name, ..] = cells[..] else { return None };
            Some((offset.parse().ok()?, size.parse().ok()?, name.to_owned()))
        });
        rows.collect()
    }

    /// Rows of a table whose first cells are a number and a name.
    pub(crate) fn numbered(page: &str, heading: &str) -> Vec<(u8, String)> {
        let text = section(page, heading);
        let rows = text.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, number, name, ..] = cells[..] else { return None };
            Some((number.parse().ok()?, name.to_owned()))
        });
        rows.collect()
    }

    /// Fails unless the table in a section of a format page lists these fields.
    pub(crate) fn check_page(page: &str, heading: &str, fields: &[Field]) {
        let want: Vec<_> = fields.iter().map(|f| (f.offset, f.size, f.name.to_owned())).collect();
        assert_eq!(documented(page, heading), want, "table of {heading} in {page}.md");
    }

    /// The golden file of this name; `UPDATE_GOLDEN=1` writes it if it is missing. A released one never changes.
    pub(crate) fn golden(name: &str, written_today: &[u8]) -> Vec<u8> {
        let path = format!("{}/../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let path = std::path::Path::new(&path);
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, written_today).unwrap();
        }
        let golden = std::fs::read(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let same = golden == written_today;
        assert!(same, "{name} differs: the format changed, so it needs a new version");
        golden
    }

    #[test]
    fn fields_read_what_they_wrote_and_nothing_beside() {
        const FIELDS: [Field; 3] = [field("a", 0, 2), field("reserved", 2, 4), field("b", 6, 8)];
        const { assert!(fill(&FIELDS, 14) && !fill(&FIELDS, 15)) }
        let [a, reserved, b] = FIELDS;
        let mut block = [0; 14];
        a.put(&mut block, 0x0102);
        b.put(&mut block, u64::MAX);
        assert_eq!(block[..7], [2, 1, 0, 0, 0, 0, 0xFF]);
        assert_eq!((a.get(&block), reserved.get_u32(&block), b.get(&block)), (0x0102, 0, u64::MAX));
        assert!(is_clean(&FIELDS, &block));
        reserved.put_bytes(&mut block, &[0, 0, 0, 1]);
        assert!(!is_clean(&FIELDS, &block));
    }
}
