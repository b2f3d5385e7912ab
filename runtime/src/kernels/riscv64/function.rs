//! How a function with vector instructions is written: they are allowed in it, whatever the code around is compiled for.

/// A naked function of instructions. By the calling convention of C all vector registers are the called one's.
macro_rules! function {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident : $type:ty),* $(,)?); $($code:expr),* $(,)?) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name($($arg: $type),*) {
            core::arch::naked_asm!(".option push", ".option arch, +v", $($code,)* "ret", ".option pop")
        }
    };
}
