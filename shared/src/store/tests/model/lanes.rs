//! The streams of a pool's lanes, as Redis keeps them.

/// One place in a stream, by the number of its entry.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) entry: u64,
    pub(super) task: u64,
    /// It stands in the stream: an operator may have trimmed it away.
    pub(super) stands: bool,
    /// It is on the list of those that were delivered; whether it has been silent for a lease.
    pub(super) pending: Option<bool>,
}

/// One stream: what stands in it, and how far its group has read.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) places: Vec<Place>,
    /// The entry that was delivered last; nothing where there is no group.
    pub(super) read: Option<u64>,
}

impl Stream {
    pub(super) fn place(&self, entry: u64) -> Option<&Place> {
        self.places.iter().find(|place| place.entry == entry)
    }

    pub(super) fn is_pending(&self, entry: u64) -> bool {
        self.place(entry).is_some_and(|place| place.pending.is_some())
    }

    fn tidy(&mut self) {
        self.places.retain(|place| place.stands || place.pending.is_some());
    }

    pub(super) fn enter(&mut self, entry: u64, task: u64) {
        self.read = Some(self.read.unwrap_or(0));
        self.places.push(Place { entry, task, stands: true, pending: None });
    }

    pub(super) fn leave(&mut self, entry: u64) {
        self.places.retain(|place| place.entry != entry);
    }

    /// XREADGROUP of one.
    pub(super) fn read(&mut self) -> Option<(u64, u64)> {
        let read = self.read?;
        let place = self.places.iter_mut().find(|place| place.stands && place.entry > read)?;
        place.pending = Some(false);
        self.read = Some(place.entry);
        Some((place.entry, place.task))
    }

    /// XCLAIM: what was trimmed away goes off the list.
    pub(super) fn claim(&mut self, entry: u64, silent: bool) {
        if let Some(place) = self.places.iter_mut().find(|place| place.entry == entry && place.pending.is_some()) {
            place.pending = place.stands.then_some(silent);
        }
        self.tidy();
    }

    pub(super) fn claim_all(&mut self) {
        let pending: Vec<u64> =
            self.places.iter().filter(|place| place.pending.is_some()).map(|place| place.entry).collect();
        for entry in pending {
            self.claim(entry, false);
        }
    }

    /// The task that is to be taken next.
    pub(super) fn head(&self) -> Option<u64> {
        let read = self.read.unwrap_or(0);
        self.places.iter().find(|place| place.stands && place.entry > read).map(|place| place.task)
    }

    pub(super) fn length(&self) -> i64 {
        self.places.iter().filter(|place| place.stands).count() as i64
    }

    /// What the scripts take for the number of those that wait.
    pub(super) fn waiting(&self) -> i64 {
        if self.length() == 0 {
            return 0;
        }
        let pending = self.places.iter().filter(|place| place.pending.is_some()).count() as i64;
        self.length() - if self.read.is_some() { pending } else { 0 }
    }

    /// Whether a record of this state has its entry.
    pub(super) fn has(&self, entry: Option<u64>, running: bool) -> bool {
        let Some(place) = entry.and_then(|entry| self.place(entry)).filter(|place| place.stands) else { return false };
        match running {
            true => place.pending.is_some(),
            false => place.pending.is_none() && self.read.is_some_and(|read| place.entry > read),
        }
    }

    /// XTRIM to nothing.
    pub(super) fn trim(&mut self) {
        for place in &mut self.places {
            place.stands = false;
        }
        self.tidy();
    }

    /// XGROUP DELCONSUMER.
    pub(super) fn forget_delivered(&mut self) {
        for place in &mut self.places {
            place.pending = None;
        }
        self.tidy();
    }

    /// XGROUP DESTROY.
    pub(super) fn destroy_group(&mut self) {
        self.forget_delivered();
        self.read = None;
    }
}
