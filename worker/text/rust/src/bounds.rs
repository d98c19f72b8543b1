//! Bounds on what a template may take, for the engine has none of its own: a line of a template doubles a string or
//! nests a list once more, and neither an allocation nor a call can fail in Rust without the end of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::{self, Thread};

/// Of everything that one run holds at a time.
const MAX_BYTES: isize = 256 << 20;
/// Lists nest as deeply as instructions last, and are dropped as deeply. Address space: only what is used is memory.
const STACK_BYTES: usize = 2 << 30;

/// Why a run has no result.
#[derive(Debug)]
pub enum Stopped {
    Memory,
    NoThread(std::io::Error),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::Memory => write!(
                f,
                "rendering takes over {} MiB of memory: shorten the conversation or the template",
                MAX_BYTES >> 20
            ),
            Stopped::NoThread(error) => write!(
                f,
                "there is no thread to render on: {error}: raise the limits of threads and address space"
            ),
        }
    }
}

const RUNNING: u8 = 0;
const ENDED: u8 = 1;
const EXHAUSTED: u8 = 2;

struct Progress {
    waiting: Thread,
    state: AtomicU8,
}

impl Progress {
    fn tell(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.waiting.unpark();
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The thread that runs what another one wants run, and ends with it.
struct Companion {
    work: Sender<Work>,
    progress: Arc<Progress>,
}

impl Companion {
    fn start() -> std::io::Result<Self> {
        let progress =
            Arc::new(Progress { waiting: thread::current(), state: AtomicU8::new(RUNNING) });
        let (work, todo) = channel::<Work>();
        let told = progress.clone();
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            BOUND.set(Arc::as_ptr(&told));
            for work in todo {
                HELD.set(0);
                work();
                told.tell(ENDED);
            }
            BOUND.set(ptr::null());
        })?;
        Ok(Companion { work, progress })
    }
}

thread_local! {
    static COMPANION: RefCell<Option<Companion>> = const { RefCell::new(None) };
    /// Whom to tell when this thread holds too much; null on threads that may hold what they like.
    static BOUND: Cell<*const Progress> = const { Cell::new(ptr::null()) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// Calls `body` on a thread with a deep stack and counts what it allocates. If that becomes too much, the thread stops
/// for good inside the allocator, with all that it holds: whoever gets `Stopped::Memory` should end the process soon.
pub fn run<R: Send>(body: impl FnOnce() -> R + Send) -> Result<R, Stopped> {
    let mut result = None;
    let out = &mut result;
    let work: Box<dyn FnOnce() + Send + '_> =
        Box::new(move || *out = Some(catch_unwind(AssertUnwindSafe(body))));
    // Safety: it has been called and dropped before this function returns, or it never goes on.
    let work: Work = unsafe { mem::transmute(work) };
    COMPANION.with_borrow_mut(|slot| {
        let companion = match slot.take() {
            Some(companion) => companion,
            None => Companion::start().map_err(Stopped::NoThread)?,
        };
        companion.progress.state.store(RUNNING, Ordering::Release);
        if companion.work.send(work).is_err() {
            return Err(Stopped::NoThread(std::io::Error::other("it has ended")));
        }
        loop {
            match companion.progress.state.load(Ordering::Acquire) {
                ENDED => break,
                EXHAUSTED => return Err(Stopped::Memory),
                _ => thread::park(),
            }
        }
        *slot = Some(companion);
        Ok(())
    })?;
    match result {
        Some(Ok(value)) => Ok(value),
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("work that has ended leaves its result"),
    }
}

struct Counting;

impl Counting {
    fn take(bytes: isize) {
        let bound = BOUND.get();
        if bound.is_null() {
            return;
        }
        HELD.set(HELD.get().saturating_add(bytes));
        if HELD.get() <= MAX_BYTES {
            return;
        }
        unsafe { &*bound }.tell(EXHAUSTED);
        loop {
            unsafe { libc::pause() };
        }
    }
}

// Safety: the system's allocator, which sees every call as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::take(layout.size() as isize);
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::take(layout.size() as isize);
        System.alloc_zeroed(layout)
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Counting::take(new_size as isize - layout.size() as isize);
        System.realloc(block, layout, new_size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        Counting::take(-(layout.size() as isize));
        System.dealloc(block, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
