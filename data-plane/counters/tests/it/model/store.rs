//! One Redis server and the key's books in it. Every function is one script: atomic, but its data may be lost or of an earlier moment.

use super::bugs::{Bug, Rules};
use super::world::{EpochNumber, Life, RequestId, Serial, Units};

/// A server process in the role of a primary.
#[derive(Clone, Debug, Hash)]
pub struct Server {
    /// New with each process.
    pub run: u8,
    /// New with each process and each promotion.
    pub role: u8,
    pub data: Data,
}

/// What is lost, copied and restored as a whole.
#[derive(Clone, Debug, Default, Hash)]
pub struct Data {
    pub books: Option<Books>,
    /// Open reservations.
    pub open: Vec<Hold>,
    /// Expired reservations: charged in full until the truth arrives.
    pub orphans: Vec<Hold>,
    /// Markers of reservations that are over.
    pub over: Vec<RequestId>,
}

/// One life of one counter.
#[derive(Clone, Debug, Hash)]
pub struct Books {
    pub life: Life,
    /// Of which server these books are.
    pub fence: u8,
    /// 0: vacant.
    pub epoch: EpochNumber,
    /// Of the latest answer applied.
    pub serial: Serial,
    /// Answers up to this one are void.
    pub floor: Serial,
    /// Of the latest answer about the counter.
    pub counter_serial: Serial,
    pub ceiling: Units,
    pub used: Units,
    pub held: Units,
}

impl Books {
    fn vacant(life: Life, fence: u8) -> Self {
        Self { life, fence, epoch: 0, serial: 0, floor: 0, counter_serial: 0, ceiling: 0, used: 0, held: 0 }
    }

    /// What may still be reserved.
    pub fn free(&self) -> Units {
        self.ceiling - self.used - self.held
    }
}

/// What one reservation takes.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    pub id: RequestId,
    pub amount: Units,
}

/// The answer to a reserve.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Admitted,
    NotJoined(Life),
    Short { life: Life, missing: Units },
    Duplicate,
}

/// What a claw-back left.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub epoch: EpochNumber,
    pub serial: Serial,
    pub ceiling: Units,
}

/// A question: may this be dispatched?
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub id: RequestId,
    pub amount: Units,
    /// What the asker has joined; 0: nothing.
    pub epoch: EpochNumber,
}

impl Server {
    fn fence(&self, rules: Rules) -> u8 {
        if rules.has(Bug::FenceIsRunId) { self.run } else { self.role }
    }

    /// The books, if they are of this server in its present role.
    pub fn books(&self, rules: Rules) -> Option<&Books> {
        let fence = self.fence(rules);
        self.data.books.as_ref().filter(|books| books.fence == fence || rules.has(Bug::NoFence))
    }

    fn books_mut(&mut self, rules: Rules) -> Option<&mut Books> {
        let fence = self.fence(rules);
        self.data.books.as_mut().filter(|books| books.fence == fence || rules.has(Bug::NoFence))
    }

    /// Begins a life: nothing of the one before is left, but for the markers.
    pub fn begin(&mut self, rules: Rules, life: Life) {
        self.data.books = Some(Books::vacant(life, self.fence(rules)));
        self.data.open.clear();
        self.data.orphans.clear();
    }

    /// Decides a question; the books must be there.
    pub fn reserve(&mut self, rules: Rules, question: Question) -> Verdict {
        let Question { id, amount, epoch } = question;
        let is_open = self.data.open.iter().any(|hold| hold.id == id);
        let is_over = self.data.over.contains(&id) || self.data.orphans.iter().any(|hold| hold.id == id);
        if is_open && rules.has(Bug::KnownBeforeEpoch) {
            return Verdict::Admitted;
        }
        let Some(books) = self.books_mut(rules) else { return Verdict::Duplicate };
        if is_over {
            return Verdict::Duplicate;
        }
        // 0 is "joined nothing" to the asker and "opened by nobody" in the books: they never match.
        if epoch == 0 || books.epoch != epoch {
            return Verdict::NotJoined(books.life);
        }
        if is_open {
            return Verdict::Admitted;
        }
        if books.free() < amount {
            return Verdict::Short { life: books.life, missing: amount - books.free() };
        }
        books.held += amount;
        self.data.open.push(Hold { id, amount });
        self.data.open.sort_unstable();
        Verdict::Admitted
    }

    /// Applies an answer of the ledger. `granted` is `None` in the answer to one who only joined.
    pub fn grant(&mut self, rules: Rules, life: Life, epoch: EpochNumber, serial: Serial, granted: Option<Units>) {
        if rules.has(Bug::NoLifeCheck) && self.books(rules).is_none_or(|books| books.epoch == 0) {
            self.begin(rules, life);
        }
        let Some(books) = self.books_mut(rules).filter(|books| books.life == life) else { return };
        books.epoch = epoch;
        books.serial = books.serial.max(serial);
        let Some(granted) = granted else { return };
        let is_void = serial <= books.floor && !rules.has(Bug::NoFloor);
        let is_old = is_void || serial <= books.counter_serial;
        if !is_old || rules.has(Bug::NoGrantSerial) {
            books.counter_serial = serial;
            books.ceiling = granted;
        }
    }

    /// What could be given back, without giving it back.
    pub fn holding(&self, rules: Rules) -> Option<Left> {
        let books = self.books(rules).filter(|books| books.epoch != 0)?;
        Some(Left { epoch: books.epoch, serial: books.serial, ceiling: books.used + books.held })
    }

    /// Lowers the ceiling to what is used or held.
    pub fn claw_back(&mut self, rules: Rules) -> Option<Left> {
        let left = self.holding(rules)?;
        let books = self.books_mut(rules)?;
        books.ceiling = left.ceiling;
        books.floor = books.serial;
        Some(left)
    }

    /// Replaces a hold, or the charge of an expired one, by what it cost. An id that is unknown can be admitted no more.
    pub fn settle(&mut self, rules: Rules, id: RequestId, epoch: EpochNumber, cost: Units) {
        if self.books(rules).is_none_or(|books| books.epoch != epoch) {
            return;
        }
        let held = take(&mut self.data.open, id);
        let charged = take(&mut self.data.orphans, id);
        if let Some(books) = self.books_mut(rules).filter(|_| held + charged > 0) {
            books.held -= held;
            books.used += cost - charged;
        }
        if !self.data.over.contains(&id) {
            self.data.over.push(id);
            self.data.over.sort_unstable();
        }
    }

    /// An open reservation expires: what is unknown is charged.
    pub fn expire(&mut self, rules: Rules, at: usize) -> bool {
        if at >= self.data.open.len() || self.books(rules).is_none() {
            return false;
        }
        let hold = self.data.open.remove(at);
        if let Some(books) = self.books_mut(rules) {
            books.held -= hold.amount;
            books.used += hold.amount;
        }
        self.data.orphans.push(hold);
        self.data.orphans.sort_unstable();
        true
    }
}

/// Takes a hold out and answers its amount, 0 if it is not there.
fn take(holds: &mut Vec<Hold>, id: RequestId) -> Units {
    let at = holds.iter().position(|hold| hold.id == id);
    at.map_or(0, |at| holds.remove(at).amount)
}
