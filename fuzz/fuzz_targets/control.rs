#![cfg_attr(fuzzing, no_main)]
lsync_fuzz::target!(control);
