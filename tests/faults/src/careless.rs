//! A disk that says it has synced and has not: [`CarelessDisk`]. Power cuts must lose what it was trusted with; a harness
//! that does not notice is blind.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tagmill_storage::disk::real::RealDisk;
use tagmill_storage::disk::{Disk, DiskFile};

/// A real disk whose syncs do nothing.
#[derive(Debug)]
pub(crate) struct CarelessDisk(RealDisk);

impl CarelessDisk {
    /// Swallows the syncs of `disk`.
    pub(crate) fn over(disk: RealDisk) -> Self {
        Self(disk)
    }
}

#[derive(Debug)]
struct CarelessFile(Arc<dyn DiskFile>);

fn careless(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
    Arc::new(CarelessFile(file))
}

impl Disk for CarelessDisk {
    fn create(&self, path: &str, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path, allocate).map(careless)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path).map(careless)
    }

    fn open_writable(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open_writable(path).map(careless)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        self.0.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock()
    }

    fn root(&self) -> PathBuf {
        self.0.root()
    }
}

impl DiskFile for CarelessFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
}
