"""Subjects and styles of the drawn world, a choice from the whole table of pictures.

The 174 subjects have one bold silhouette that still reads at 32 x 32, and all four styles draw them. Left
out are people, faces, flags, buttons with text, and shapes of thin lines. Fewer subjects mean more
updates for each: a prototype with 312 got colours and outlines right and left parts out. The styles are
those under Apache-2.0 or MIT. Two of them, flat and glossy, are one design rendered twice.
"""

STYLES = {"noto": "noto", "noto-v1": "blob", "fluent-flat": "flat", "fluent-3d": "glossy"}
"""Word in captions by the name of the style in the table."""

_NAMES = """
cat face, dog face, mouse face, cow face, tiger face, rabbit face, monkey face, pig face, panda, bear,
koala, fox, lion, frog, unicorn, wolf, pig nose, paw prints, elephant, penguin, owl, hatching chick,
front-facing baby chick, dolphin, spouting whale, octopus, crab, tropical fish, blowfish, turtle, snail,
lady beetle, honeybee, butterfly, spider web, hot dog, hamburger, pizza, french fries, popcorn, croissant,
bread, cooking, cheese wedge, pancakes, eggplant, carrot, avocado, hot pepper, ear of corn, cucumber,
tomato, grapes, watermelon, tangerine, lemon, banana, pineapple, red apple, green apple, pear, peach,
cherries, strawberry, kiwi fruit, soft ice cream, ice cream, doughnut, cookie, chocolate bar, lollipop,
candy, custard, birthday cake, shortcake, rice ball, sushi, wine glass, cocktail glass, beer mug, hot
beverage, glass of milk, evergreen tree, deciduous tree, palm tree, cactus, four leaf clover, maple leaf,
mushroom, tulip, cherry blossom, rose, hibiscus, sunflower, cloud, sun, crescent moon, full moon, star,
glowing star, rainbow, fire, droplet, snowflake, snowman without snow, umbrella with rain drops, high
voltage, sun with face, jack-o-lantern, Christmas tree, wrapped gift, balloon, ribbon, top hat, crown,
graduation cap, t-shirt, jeans, dress, necktie, high-heeled shoe, running shoe, handbag, lipstick, gem
stone, sunglasses, basketball, soccer ball, baseball, tennis, pool 8 ball, crystal ball, trophy, sports
medal, guitar, drum, artist palette, light bulb, candle, camera, television, mobile phone, floppy disk,
optical disk, battery, bell, key, locked, bomb, scissors, envelope, package, closed book, green book, blue
book, alarm clock, rocket, sailboat, automobile, bus, taxi, airplane, anchor, tent, house, volcano, no
entry, warning, radioactive, check mark button, cross mark, heart suit, spade suit, yin yang
"""
SUBJECTS = tuple(name.strip() for name in _NAMES.replace("\n", " ").split(","))
"""Names of the subjects in the table, which are Unicode's short names."""
