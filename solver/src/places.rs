//! How many operations execute at once: a fixed number of places, or as many as there are cores, and more for as long
//! as cores stand idle, or steps only wait. A step that sleeps or waits for a network takes a place but no core; without
//! the second kind eight such steps would take four times as long on two cores as they must.
//!
//! How many more is reckoned from those that execute: if they keep a quarter of the cores busy, four times as many would
//! keep all. That is a guess about steps that nobody has seen, so that their number at most doubles between two looks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// How often who waits for a place looks whether there is room beyond.
const LOOK: Duration = Duration::from_millis(30);

/// Places beyond the cores, for each core: what sleeps still takes memory and processes.
const EXTRA_PER_PLACE: usize = 8;

/// Returns how many cores' time went by idle since it was last asked; `None` when too little time has passed to say.
pub type Idle = Arc<dyn Fn() -> Option<f64> + Send + Sync>;

/// Returns how many of the steps that execute use no core and want none, also where others keep the cores busy.
pub type Waiting = Arc<dyn Fn() -> usize + Send + Sync>;

/// A limit on what executes at once.
#[derive(Clone)]
pub enum Jobs {
    /// Exactly so many; 0 counts as 1.
    Fixed(usize),
    /// So many, and more while cores are idle or steps wait.
    Adaptive {
        /// Asked when something executes: to know it may take longer than to find all in the cache.
        cores: fn() -> usize,
        idle: Idle,
        waiting: Waiting,
    },
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(places) => write!(f, "Fixed({places})"),
            Self::Adaptive { .. } => f.write_str("Adaptive"),
        }
    }
}

pub(crate) struct Places {
    regular: Semaphore,
    cores: usize,
    room: Option<(Idle, Waiting)>,
    /// Taken beyond the cores.
    extra: AtomicUsize,
    /// So many may be, by what was last seen of the cores.
    extra_by_cores: AtomicUsize,
    extra_limit: usize,
}

/// A place that is taken; free again on drop.
pub(crate) enum Place<'a> {
    Regular { _permit: SemaphorePermit<'a> },
    Extra { taken: &'a AtomicUsize },
}

impl<'a> Place<'a> {
    fn regular(permit: SemaphorePermit<'a>) -> Self {
        Self::Regular { _permit: permit }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Self::Extra { taken } = self {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Places {
    pub(crate) fn new(jobs: &Jobs) -> Self {
        let (places, room) = match jobs {
            Jobs::Fixed(places) => (*places, None),
            Jobs::Adaptive {
                cores,
                idle,
                waiting,
            } => (cores(), Some((Arc::clone(idle), Arc::clone(waiting)))),
        };
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            regular: Semaphore::new(places),
            cores: places,
            room,
            extra: AtomicUsize::new(0),
            extra_by_cores: AtomicUsize::new(0),
            extra_limit: places.saturating_mul(EXTRA_PER_PLACE),
        }
    }

    /// Waits for a place. `None` where no place will ever be free again.
    pub(crate) async fn take(&self) -> Option<Place<'_>> {
        let Some((idle, waiting)) = &self.room else {
            return self.regular.acquire().await.ok().map(Place::regular);
        };
        if let Ok(permit) = self.regular.try_acquire() {
            return Some(Place::regular(permit));
        }
        // What went by before anybody waited says nothing about those that execute now.
        idle();
        let regular = self.regular.acquire();
        tokio::pin!(regular);
        loop {
            tokio::select! {
                biased;
                permit = &mut regular => return permit.ok().map(Place::regular),
                () = tokio::time::sleep(LOOK) => {
                    if let Some(idle) = idle() {
                        self.extra_by_cores.store(self.room_by(idle), Ordering::Relaxed);
                    }
                    let by_cores = self.extra_by_cores.load(Ordering::Relaxed);
                    // Each that waits makes room for one.
                    let place = self.beyond(by_cores).or_else(|| self.beyond(waiting()));
                    if place.is_some() {
                        return place;
                    }
                }
            }
        }
    }

    /// How many places beyond the cores would keep all cores busy, when `idle` of them were not, if whoever gets one does
    /// as those that have one.
    fn room_by(&self, idle: f64) -> usize {
        // A tenth is for what is rounded away.
        if idle < 0.9 {
            return 0;
        }
        let taken = self.cores + self.extra.load(Ordering::Relaxed);
        let busy = self.cores as f64 - idle;
        let wanted = (taken as f64 * self.cores as f64 / busy.max(f64::MIN_POSITIVE)) as usize;
        wanted
            .min(taken.saturating_mul(2))
            .saturating_sub(self.cores)
    }

    /// A place, if fewer than `room` are taken of those beyond the cores.
    fn beyond(&self, room: usize) -> Option<Place<'_>> {
        let limit = room.min(self.extra_limit);
        let taken = |count: usize| (count < limit).then_some(count + 1);
        self.extra
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .ok()
            .map(|_| Place::Extra { taken: &self.extra })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    async fn taken_at_once(places: &Places) -> usize {
        let mut held = Vec::new();
        while let Ok(place) = tokio::time::timeout(4 * LOOK, places.take()).await {
            held.push(place);
        }
        held.len()
    }

    fn adaptive(idle: f64, waiting: usize) -> Places {
        Places::new(&Jobs::Adaptive {
            cores: || 2,
            idle: Arc::new(move || Some(idle)),
            waiting: Arc::new(move || waiting),
        })
    }

    #[test]
    fn a_fixed_limit_is_never_passed() {
        let places = Places::new(&Jobs::Fixed(3));
        assert_eq!(runtime().block_on(taken_at_once(&places)), 3);
    }

    #[test]
    fn busy_cores_get_no_more_than_their_number() {
        assert_eq!(runtime().block_on(taken_at_once(&adaptive(0.0, 0))), 2);
    }

    #[test]
    fn who_waits_makes_room_for_as_many_though_cores_are_busy() {
        assert_eq!(runtime().block_on(taken_at_once(&adaptive(0.0, 1))), 3);
        assert_eq!(runtime().block_on(taken_at_once(&adaptive(0.0, 5))), 7);
    }

    #[test]
    fn idle_cores_get_more_up_to_a_bound_and_give_it_back() {
        let places = adaptive(2.0, 0);
        for _ in 0..2 {
            assert_eq!(
                runtime().block_on(taken_at_once(&places)),
                2 + 2 * EXTRA_PER_PLACE
            );
        }
        assert_eq!(places.extra.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn there_is_room_for_as_many_as_would_keep_the_cores_busy() {
        let places = adaptive(0.0, 0);
        for (idle, extra) in [(0.5, 0), (1.0, 2), (1.5, 2), (2.0, 2), (2.1, 2)] {
            assert_eq!(places.room_by(idle), extra, "{idle}");
        }
        let places = Places {
            cores: 8,
            ..adaptive(0.0, 0)
        };
        for (idle, extra) in [(0.8, 0), (1.0, 1), (2.0, 2), (4.0, 8), (7.5, 8)] {
            assert_eq!(places.room_by(idle), extra, "{idle}");
        }
        places.extra.store(2, Ordering::Relaxed);
        for (idle, extra) in [(0.5, 0), (1.0, 3), (2.0, 5), (8.0, 12)] {
            assert_eq!(places.room_by(idle), extra, "{idle}");
        }
    }
}
