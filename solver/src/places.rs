//! How many operations execute at once: a fixed number of places, or as many as there are cores, and more for as long
//! as cores stand idle, or steps only wait. A step that sleeps or waits for a network takes a place but no core; without
//! the second kind eight such steps would take four times as long on two cores as they must.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// How often who waits for a place looks whether there is room beyond.
const LOOK: Duration = Duration::from_millis(30);

/// Places beyond the cores, for each core: what sleeps still takes memory and processes.
const EXTRA_PER_PLACE: usize = 8;

/// Returns whether at least one core was idle since it was last asked; `false` when too little time has passed to say.
pub type Idle = Arc<dyn Fn() -> bool + Send + Sync>;

/// Returns how many of the steps that execute use no core and want none, also where others keep the cores busy.
pub type Waiting = Arc<dyn Fn() -> usize + Send + Sync>;

/// A limit on what executes at once.
#[derive(Clone)]
pub enum Jobs {
    /// Exactly so many; 0 counts as 1.
    Fixed(usize),
    /// So many, and more while cores are idle or steps wait.
    Adaptive {
        cores: usize,
        idle: Idle,
        waiting: Waiting,
    },
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(places) => write!(f, "Fixed({places})"),
            Self::Adaptive { cores, .. } => write!(f, "Adaptive({cores})"),
        }
    }
}

pub(crate) struct Places {
    regular: Semaphore,
    room: Option<(Idle, Waiting)>,
    looking: Once,
    extra: AtomicUsize,
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
            } => (*cores, Some((Arc::clone(idle), Arc::clone(waiting)))),
        };
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            regular: Semaphore::new(places),
            room,
            looking: Once::new(),
            extra: AtomicUsize::new(0),
            extra_limit: places.saturating_mul(EXTRA_PER_PLACE),
        }
    }

    /// Waits for a place. `None` where no place will ever be free again.
    pub(crate) async fn take(&self) -> Option<Place<'_>> {
        let regular = self.regular.acquire();
        let Some((idle, waiting)) = &self.room else {
            return regular.await.ok().map(Place::regular);
        };
        tokio::pin!(regular);
        // From the first step on it is looked at whether cores are idle.
        self.looking.call_once(|| {
            idle();
        });
        loop {
            tokio::select! {
                biased;
                permit = &mut regular => return permit.ok().map(Place::regular),
                () = tokio::time::sleep(LOOK) => {
                    // Each that waits makes room for one.
                    let room = if idle() { usize::MAX } else { waiting() };
                    if let Some(place) = self.beyond(room) {
                        return Some(place);
                    }
                }
            }
        }
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

    fn adaptive(idle: bool, waiting: usize) -> Places {
        Places::new(&Jobs::Adaptive {
            cores: 2,
            idle: Arc::new(move || idle),
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
        assert_eq!(runtime().block_on(taken_at_once(&adaptive(false, 0))), 2);
    }

    #[test]
    fn who_waits_makes_room_for_as_many_though_cores_are_busy() {
        assert_eq!(runtime().block_on(taken_at_once(&adaptive(false, 1))), 3);
        assert_eq!(runtime().block_on(taken_at_once(&adaptive(false, 5))), 7);
    }

    #[test]
    fn idle_cores_get_more_up_to_a_bound_and_give_it_back() {
        let places = adaptive(true, 0);
        for _ in 0..2 {
            assert_eq!(
                runtime().block_on(taken_at_once(&places)),
                2 + 2 * EXTRA_PER_PLACE
            );
        }
        assert_eq!(places.extra.load(Ordering::Relaxed), 0);
    }
}
