#include <holdfast/endpoint.h>

#include <gtest/gtest.h>
#include <sys/un.h>

#include <string>

namespace holdfast {
namespace {

SocketAddress Literal(std::string_view text) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  EXPECT_TRUE(endpoint.ok()) << text << ": " << endpoint.status();
  if (!endpoint.ok() || !endpoint->literal().has_value()) return {};
  return *endpoint->literal();
}

TEST(EndpointTest, AnIpv4AddressIsALiteral) {
  const SocketAddress address = Literal("192.0.2.7:7000");
  EXPECT_EQ(address.family(), AF_INET);
  EXPECT_EQ(address.port(), 7000);
  EXPECT_EQ(address.ToString(), "192.0.2.7:7000");
}

TEST(EndpointTest, AnIpv6AddressStandsInBrackets) {
  const SocketAddress address = Literal("[2001:db8::7]:65535");
  EXPECT_EQ(address.family(), AF_INET6);
  EXPECT_EQ(address.port(), 65535);
  EXPECT_EQ(address.ToString(), "[2001:db8::7]:65535");
}

TEST(EndpointTest, AnIpv6ScopeIsAnInterfaceByNameOrIndex) {
  EXPECT_EQ(Literal("[fe80::1%lo]:1"), Literal("[fe80::1%1]:1"));
  EXPECT_EQ(Literal("[fe80::1%lo]:1").ToString(), "[fe80::1%lo]:1");
  EXPECT_FALSE(Endpoint::Parse("[fe80::1%no_such_if]:1").ok());
  EXPECT_FALSE(Endpoint::Parse("[fe80::1%0]:1").ok());
}

TEST(EndpointTest, ANameIsKeptForTheResolver) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse("feed-a.example.com:7000");
  ASSERT_TRUE(endpoint.ok());
  EXPECT_FALSE(endpoint->literal().has_value());
  EXPECT_EQ(endpoint->host(), "feed-a.example.com");
  EXPECT_EQ(endpoint->port(), 7000);
  EXPECT_EQ(endpoint->text(), "feed-a.example.com:7000");
}

TEST(EndpointTest, AUnixPathKeepsItsTerminatingNul) {
  const SocketAddress address = Literal("unix:/run/feed.sock");
  EXPECT_EQ(address.family(), AF_UNIX);
  EXPECT_EQ(address.size(), offsetof(sockaddr_un, sun_path) + sizeof("/run/feed.sock"));
  EXPECT_EQ(address.ToString(), "unix:/run/feed.sock");
}

TEST(EndpointTest, AnAbstractNameIsCountedAndBeginsWithNul) {
  const SocketAddress address = Literal("unix:@feed");
  EXPECT_EQ(address.size(), offsetof(sockaddr_un, sun_path) + 5);
  EXPECT_EQ(reinterpret_cast<const sockaddr_un*>(address.data())->sun_path[0], '\0');
  EXPECT_EQ(address.ToString(), "unix:@feed");
}

TEST(EndpointTest, AUnixPathOf107BytesIsTheLongest) {
  EXPECT_TRUE(Endpoint::Parse("unix:/" + std::string(106, 'a')).ok());
  EXPECT_FALSE(Endpoint::Parse("unix:/" + std::string(107, 'a')).ok());
}

class BadEndpointTest : public testing::TestWithParam<std::string> {};

TEST_P(BadEndpointTest, IsRefusedWithItsText) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(GetParam());
  ASSERT_FALSE(endpoint.ok());
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(endpoint.status().message().find("\"" + GetParam() + "\""), std::string::npos)
      << endpoint.status();
}

INSTANTIATE_TEST_SUITE_P(
    All, BadEndpointTest,
    testing::Values("", ":", ":80", "host", "host:", "host:70000", "host:65536", "host:-1",
                    "host:+1", "host: 1", "host:1 ", "host:0x10", "host:http", "1.2.3:80",
                    "256.1.1.1:80", "1.2.3.4.5:80", "1.2.3.4", "::1:80", "[::1]", "[::1]80",
                    "[::1:80", "[]:80", "[1.2.3.4]:80", "[host]:80", "a..b:80", ".a:80", "ho st:80",
                    "host\n:80", std::string(64, 'a') + ":80", std::string(254, 'a') + ":80",
                    "unix:", "unix:@", std::string("unix:/a\0b", 9)));

TEST(EndpointTest, PortZeroParses) { EXPECT_EQ(Literal("127.0.0.1:0").port(), 0); }

TEST(SocketAddressTest, NothingIsEmpty) {
  const SocketAddress nothing;
  EXPECT_TRUE(nothing.empty());
  EXPECT_EQ(nothing.family(), AF_UNSPEC);
  EXPECT_EQ(nothing.ToString(), "");
  EXPECT_EQ(nothing, SocketAddress());
}

TEST(EndpointTest, ANulByteIsNoEnd) {
  EXPECT_FALSE(Endpoint::Parse(std::string("127.0.0.1\0:1", 12)).ok());
  EXPECT_FALSE(Endpoint::Parse(std::string("[::1\0]:1", 8)).ok());
  EXPECT_FALSE(Endpoint::Parse(std::string("[fe80::1%lo\0x]:1", 16)).ok());
  EXPECT_FALSE(Endpoint::Parse(std::string("host\0.test:1", 12)).ok());
}

TEST(EndpointTest, AScopeThatCannotBeLookedUpIsNotTakenForABadText) {
  Error failure;
  EXPECT_FALSE(Endpoint::Parse("[fe80::1%nosuchthing0]:1", &failure).ok());
  EXPECT_EQ(failure,
            (Error{Operation::kResolve, ErrorClass::kLocalAddress, Action::kBackOff, ENODEV}));
  EXPECT_FALSE(Endpoint::Parse("[fe80:::%1]:1", &failure).ok());
  EXPECT_EQ(failure.error_class, ErrorClass::kInvalid);
  EXPECT_FALSE(Endpoint::Parse("host", &failure).ok());
  EXPECT_EQ(failure.error_class, ErrorClass::kInvalid);
}

TEST(SocketAddressTest, AddressesCompareByTheirBytes) {
  EXPECT_EQ(Literal("127.0.0.1:1"), Literal("127.0.0.1:1"));
  EXPECT_FALSE(Literal("127.0.0.1:1") == Literal("127.0.0.1:2"));
  EXPECT_FALSE(Literal("127.0.0.1:1") == Literal("[::1]:1"));
}

TEST(SocketAddressTest, WhatTheKernelSaysTooLongIsCutOff) {
  sockaddr_storage storage{};
  storage.ss_family = AF_UNIX;
  const SocketAddress address(reinterpret_cast<const sockaddr*>(&storage), sizeof(storage) + 100);
  EXPECT_EQ(address.size(), sizeof(storage));
}

}  // namespace
}  // namespace holdfast
