#include "main.hpp"

#include <boost/test/unit_test.hpp>

// Of every test program but those that start MPI first.
int main(int argc, char** argv) {
  return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
