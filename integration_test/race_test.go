//go:build race

package integration_test

// raceEnabled says that the program is to be built as the test was.
const raceEnabled = true
