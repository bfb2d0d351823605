//! Retention as callers see it: where the classes stand, and the word that the clock is right.

use std::sync::mpsc;

use super::Engine;
use crate::error::{Error, Result};
use crate::maintenance::Request;
use crate::retention::RetentionStatus;

impl Engine {
    /// The retention classes and how far their raw samples have ended, the default class first.
    pub fn retention(&self) -> Vec<RetentionStatus> {
        self.snapshot().retention()
    }

    /// Raises the horizons that are due, lets go of segments of which every sample has ended, and waits until that is done.
    /// Happens by itself too, within a second.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn expire(&self) -> Result<Vec<RetentionStatus>> {
        self.ask_to_expire(false)
    }

    /// Says that the wall clock is right, after it has leapt more than a day: horizons rise again. Waits as
    /// [`Self::expire`] does.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn confirm_clock(&self) -> Result<Vec<RetentionStatus>> {
        self.ask_to_expire(true)
    }

    fn ask_to_expire(&self, believes: bool) -> Result<Vec<RetentionStatus>> {
        let (reply, answer) = mpsc::sync_channel(1);
        let asked = self.requests.send(Request::Expire(believes, reply));
        asked.map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)??;
        Ok(self.retention())
    }
}
